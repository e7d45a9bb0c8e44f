"""Files that hold several networks: the same one is taken every time, or `key=` is asked for."""

import pytest
import torch
from torch import nn

import snnfast


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def state(value, prefix=""):
    return {prefix + name: torch.full_like(t, value) for name, t in net().state_dict().items()}


def loaded(file, tmp_path, **how):
    torch.save(file, tmp_path / "file.pt")
    return float(snnfast.load_weights(net(), tmp_path / "file.pt", **how)[0].weight[0, 0])


@pytest.mark.parametrize("names", [("student", "teacher"), ("encoder_q", "encoder_k"), ("a.student", "a.teacher")])
@pytest.mark.parametrize("turned", [False, True])
def test_a_student_and_a_teacher_are_asked_for(names, turned, tmp_path):
    file = {}
    for value, name in list(enumerate(names))[:: -1 if turned else 1]:
        file |= state(value, f"{name}.")
    with pytest.raises(ValueError, match=f"holds several networks, behind .*{min(names)}.* and .*{max(names)}.*: key= says which is meant"):
        loaded(file, tmp_path)
    for value, name in enumerate(names):
        assert loaded(file, tmp_path, key=name) == loaded(file, tmp_path, key=f"{name}.") == value
        assert loaded({"state_dict": file, "epoch": 3}, tmp_path, key=name) == value


@pytest.mark.parametrize("average", ["ema.", "module_ema.", "teacher."])
@pytest.mark.parametrize("own", ["model.", "module.", "module.model."])
def test_the_wrapped_network_goes_before_an_average(own, average, tmp_path):
    with pytest.warns(UserWarning, match="are taken; left out"):
        assert loaded(state(2.0, average) | state(1.0, own), tmp_path) == 1


@pytest.mark.parametrize("name", ["ema", "state_dict_ema", "ema_state_dict", "model_ema", "ema_model"])
def test_ema_is_the_average_whatever_it_is_called(name, tmp_path):
    file = {"state_dict": state(1.0), name: state(2.0)}
    with pytest.warns(UserWarning, match=f"key='{name}' takes others"):
        assert loaded(file, tmp_path) == 1
    assert loaded(file, tmp_path, key="ema") == loaded(file, tmp_path, key=name) == 2


def test_prefixes_of_averages_and_inside_of_wrappers(tmp_path):
    assert loaded(state(1.0, "model.") | state(2.0, "ema_model."), tmp_path, key="ema") == 2
    file = state(1.0, "module.student.") | state(2.0, "module.teacher.")
    assert loaded(file, tmp_path, key="teacher") == 2 and loaded(file, tmp_path, key="module.student") == 1


def test_a_part_of_names_in_several_places_is_asked_for_whole(tmp_path):
    file = state(1.0, "a.teacher.") | state(2.0, "b.teacher.")
    with pytest.raises(ValueError, match="key='teacher' stands in several places, a.teacher., b.teacher.: give one whole"):
        loaded(file, tmp_path, key="teacher")
    assert loaded(file, tmp_path, key="b.teacher") == 2


def test_the_same_numbers_twice_are_no_question(tmp_path):
    with pytest.warns(UserWarning, match="are taken; left out"):
        assert loaded(state(3.0, "features.") | state(3.0, "backbone."), tmp_path) == 3


def test_two_wrappers_of_other_numbers_are_one(tmp_path):
    with pytest.raises(ValueError, match="holds several networks, behind 'net' and 'model'"):
        loaded(state(1.0, "model.") | state(2.0, "net."), tmp_path)


def test_only_one_has_the_shapes(tmp_path):
    large = {f"teacher.{n}": torch.zeros(*(k + 1 for k in t.shape)) for n, t in net().state_dict().items()}
    with pytest.warns(UserWarning, match="are taken; left out"):
        assert loaded(state(1.0, "student.") | large, tmp_path) == 1


def test_a_name_within_a_name_is_no_prefix(tmp_path):
    """10.weight ends in 0.weight."""
    with pytest.raises(ValueError, match="file.pt"):
        loaded(state(1.0, "1"), tmp_path)


def test_a_key_that_is_no_name(tmp_path):
    with pytest.raises(TypeError, match="key must be the name of an entry, a str, got int"):
        loaded(state(1.0), tmp_path, key=3)
