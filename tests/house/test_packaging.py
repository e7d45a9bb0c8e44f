"""What a stranger installs: the sdist holds all it is built from, the wheel works in an environment that has its dependencies alone, outside
of any checkout; and where the kernels cannot be built, the Python part is installed, says why in one line, and works."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).resolve().parents[2]
OP = """
import warnings, torch
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    import snnfast
    s, state = snnfast.iaf(torch.full((4, 3), 0.5), 1.0)
assert s.tolist() == [[1.0] * 3, [0.0] * 3, [1.0] * 3, [0.0] * 3], s
print(snnfast.__file__, snnfast.ops.info.served_by("iaf_fwd")["cpu"], len([w for w in said if "reference kernel" in str(w.message)]))
"""


def clean(**more):
    """A shell's environment that knows nothing of this checkout."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST", "VIRTUAL_ENV", "SNNFAST", "TRITON"))} | more


def run(*command, cwd, **env):
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=clean(**env), capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def ok(*command, cwd, **env):
    code, out, error = run(*command, cwd=cwd, **env)
    assert code == 0, (out + error)[-3000:]
    return out + error


def closure(*names):
    """The distributions that these need, with themselves."""
    found, todo = {}, list(names)
    while todo:
        name = re.match(r"[\w.-]+", todo.pop())[0].lower().replace("_", "-")
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        todo += [r for r in found[name].requires or () if "extra ==" not in r]
    return found.values()


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A new environment that holds what the package depends on, what that needs, and nothing else."""
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    folder = tmp_path_factory.mktemp("environment")
    ok(sys.executable, "-m", "venv", folder, cwd=folder)
    (site,) = (folder / "lib").glob("python*/site-packages")
    for distribution in closure(*needed):
        for top in {file.parts[0] for file in distribution.files if not file.parts[0].startswith("..") and file.parts[0] != "__pycache__"}:
            source = Path(distribution.locate_file(top))
            if source.exists() and not (site / top).exists():
                (site / top).symlink_to(source)
    return folder


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """Of a copy of what git holds, so that nothing that lies about here helps."""
    folder = tmp_path_factory.mktemp("sdist")
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / "source" / name)
    program = f"import setuptools.build_meta as b; b.build_sdist({str(folder)!r})"
    ok(sys.executable, "-c", program, cwd=folder / "source")
    (path,) = folder.glob("*.tar.gz")
    return path


def wheel(sdist, folder, python=sys.executable, **env):
    out = ok(python, "-m", "pip", "wheel", "-v", "--no-build-isolation", "--no-deps", "--no-index", "-w", folder, sdist, cwd=folder, **env)
    (path,) = Path(folder).glob("*.whl")
    return path, out


@pytest.fixture(scope="module")
def built(sdist, tmp_path_factory):
    """The wheel. Objects that `make` compiled from the same text are not compiled again: reused_objects.py."""
    folder = tmp_path_factory.mktemp("wheel")
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    launcher = f"{sys.executable};{Path(__file__).with_name('reused_objects.py')}"
    return wheel(sdist, folder, SNNFAST_CUDA="0", PATH=tools, CMAKE_CXX_COMPILER_LAUNCHER=launcher, REUSED=str(folder / "reused"))[0]


@pytest.fixture(scope="module")
def bare(sdist, tmp_path_factory):
    """The wheel of a machine without a compiler, and what its making said."""
    return wheel(sdist, tmp_path_factory.mktemp("bare"), PATH=str(tmp_path_factory.mktemp("nothing")))


def installed(environment, wheel, tmp_path):
    python = environment / "bin/python"
    ok(python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--force-reinstall", wheel, cwd=tmp_path)
    return python, environment / "bin/snnfast"


def test_the_citation_is_of_this_version():
    said = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)[1]
    assert f'__version__ = "{said}"' in (ROOT / "snnfast/version.py").read_text()


def test_the_sdist_is_whole(sdist):
    with tarfile.open(sdist) as tar:
        found = {name.partition("/")[2] for name in tar.getnames()}
    ask = ["git", "ls-files", "csrc", "snnfast", "tests", "CMakeLists.txt"]
    tracked = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in tracked if name not in found and (ROOT / name).exists()]
    assert not [name for name in found if name.endswith(".so")]


def test_the_wheel_works_outside_of_the_checkout(environment, built, tmp_path):
    assert "-cp310-abi3-" in built.name  # for every Python from 3.10 on
    with zipfile.ZipFile(built) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} - {"snnfast"} == {built.name.split("-cp")[0] + ".dist-info"}
    python, command = installed(environment, built, tmp_path)
    where, served, warned = ok(python, "-c", OP, cwd=tmp_path).split()
    assert Path(where).is_relative_to(environment) and (served, warned) == ("C++", "0")
    assert "C++, " in ok(command, "info", cwd=tmp_path)
    assert "--methods" in ok(command, "demo", "--help", cwd=tmp_path)
    # What an extra brings is named, in one line.
    code, out, error = run(command, "demo", cwd=tmp_path)
    assert code and error.count("\n") == 1 and "pip install 'snnfast[demo]'" in error


def test_without_a_compiler_the_python_part_works(environment, bare, tmp_path):
    path, said = bare
    reason = "cmake is neither on the PATH nor installed (pip install cmake)"
    assert f"not built, so ops run in plain torch, 5 to 50 times slower: {reason}" in said
    python, command = installed(environment, path, tmp_path)
    where, served, warned = ok(python, "-c", OP, cwd=tmp_path).split()
    assert Path(where).is_relative_to(environment) and (served, warned) == ("reference", "1")
    assert f"it was not built: {reason}" in " ".join(ok(command, "info", cwd=tmp_path).split())


@pytest.mark.parametrize("setup, reason", [
    ("os.environ['CXX'] = sys.argv[1]", "is another compiler"),
    ("os.environ['CXX'] = 'no-such-compiler'", "there is no no-such-compiler on the PATH"),
    ("platform.machine = lambda: 'aarch64'", "the kernels are written for x86-64, and this is aarch64"),
], ids=["clang", "no compiler", "aarch64"])  # fmt: skip
def test_what_the_kernels_cannot_be_built_with(sdist, tmp_path, setup, reason):
    with tarfile.open(sdist) as tar:
        tar.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (source,) = tmp_path.iterdir()
    clang = tmp_path / "clang++"
    clang.write_text("#!/bin/sh\necho '#define __GNUC__ 4'; echo '#define __clang__ 1'\n")
    clang.chmod(0o755)
    program = f"import os, platform, runpy, sys; {setup}; sys.argv = ['setup.py', '--quiet', 'build_ext', '--inplace']; runpy.run_path('setup.py')"
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    said = ok(sys.executable, "-c", program, clang, cwd=source, PATH=tools)
    assert reason in said and reason in (source / "snnfast/not_built.txt").read_text()
    assert "reference 1" in ok(sys.executable, "-c", OP, cwd=source)


def test_what_is_there_and_does_not_build_is_an_error(sdist, tmp_path):
    with tarfile.open(sdist) as tar:
        tar.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (source,) = tmp_path.iterdir()
    with open(source / "CMakeLists.txt", "a") as file:
        file.write('message(FATAL_ERROR "on purpose")\n')
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    code, out, error = run(sys.executable, "setup.py", "build_ext", "--inplace", cwd=source, PATH=tools, SNNFAST_CUDA="0")
    assert code and "on purpose" in out + error and not (source / "snnfast/not_built.txt").exists()


def test_torchvision_of_another_torch_loads(tmp_path):
    """Its wheel for CUDA beside a torch without: 'operator torchvision::nms does not exist'."""
    pytest.importorskip("torchvision")
    program = "import snnfast.data as d; d.declare_operators(); import torchvision.datasets; print('loaded')"
    assert "loaded" in ok(sys.executable, "-c", program, cwd=ROOT)


def test_every_import_is_declared():
    """Of the package's own files: the standard library, or what pyproject names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    given = [*project["dependencies"], *(entry for extra in project["optional-dependencies"].values() for entry in extra)]
    names = {re.match(r"[\w-]+", entry)[0].lower().replace("-", "_") for entry in given}
    names |= {"snnfast", "sklearn", "PIL"} | set(sys.stdlib_module_names)  # PIL is torchvision's
    names |= {"spikingjelly"}  # which is only looked for among modules that somebody else has imported
    found = {}
    for path in (ROOT / "snnfast").rglob("*.py"):
        for name in re.findall(r"^\s*(?:import|from) ([A-Za-z_]\w*)", path.read_text(), re.M):
            found.setdefault(name, path.name)
    assert not {name: path for name, path in found.items() if name not in names}
