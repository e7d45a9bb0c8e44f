"""Mean, deviation and size of images, by name."""

from snnfast import checks

CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


CIFAR100 = (tuple(n / 255 for n in (129.3, 124.1, 112.4)), tuple(n / 255 for n in (68.2, 65.4, 70.4)))


TINY_IMAGENET = ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821))


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


PREPROCESSING = {
    "cifar10": dict(mean=list(CIFAR10[0]), std=list(CIFAR10[1])),
    "cifar100": dict(mean=list(CIFAR100[0]), std=list(CIFAR100[1])),
    "tiny-imagenet": dict(mean=list(TINY_IMAGENET[0]), std=list(TINY_IMAGENET[1])),
    "imagenet": dict(mean=list(IMAGENET[0]), std=list(IMAGENET[1]), resize=256, crop=224),
    "half": dict(mean=[0.5] * 3, std=[0.5] * 3),
    "none": dict(mean=[0.0] * 3, std=[1.0] * 3),
}


def preprocessing_of(asked, default):
    """The preprocessing as a dictionary (name; mean and std per channel; resize and crop in pixels, where images are not of one size).

    asked: a name of `PREPROCESSING`, such a dictionary (as checkpoints hold it), or None for the data set's own, `default`. What is not said about
    sizes is the data set's.
    """
    sizes = {k: v for k, v in PREPROCESSING[default].items() if k in ("resize", "crop")}
    if asked is None or isinstance(asked, str):
        name = default if asked is None else checks.choice("preprocessing", asked, tuple(PREPROCESSING))
        own = PREPROCESSING[name]
        return dict(name=name, mean=own["mean"], std=own["std"], **sizes)
    if not isinstance(asked, dict) or not {"mean", "std"} <= set(asked):
        raise ValueError(f"preprocessing must be one of {', '.join(PREPROCESSING)}, or a dictionary with mean and std, got {asked!r}")
    return {"name": "own", **sizes, **asked}
