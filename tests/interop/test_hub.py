"""Networks on a hub: a server of this machine that answers as the Hugging Face Hub does, and nothing of the network beyond."""

import base64
import hashlib
import http.server
import json
import threading
import urllib.parse

import pytest
import torch

import snnfast

hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
from huggingface_hub import constants  # noqa: E402

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """Repositories in memory: {name: {file: bytes}}, and what was asked for."""

    repos: dict = {}
    asked: list = []

    def log_message(self, *args):
        pass

    def _answer(self, body=b"", code=200, **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Length": len(body), "Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self, code):
        self._answer({"error": code}, 404, X_Error_Code=code)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urllib.parse.urlparse(self.path).path
        self.asked.append((path, self.headers.get("Authorization")))
        if path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given.get('organization') or 'me'}/{given['name']}"
            if name in self.repos:
                return self._answer({"error": "exists", "url": f"{constants.ENDPOINT}/{name}"}, 409)
            self.repos[name] = {}
            return self._answer({"url": f"{constants.ENDPOINT}/{name}", "name": name})
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        name, _, what = path.removeprefix("/api/models/").partition("/")
        owner, name = name, what.partition("/")[0]
        repo, what = f"{owner}/{name}", what.partition("/")[2]
        if repo not in self.repos:
            return self._missing("RepoNotFound")
        if what.startswith("preupload"):
            files = json.loads(body)["files"]
            return self._answer({"files": [dict(path=f["path"], uploadMode="regular", shouldIgnore=False) for f in files]})
        if what.startswith("commit"):
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.repos[repo][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            address = f"{constants.ENDPOINT}/{repo}/commit/{COMMIT}"
            return self._answer({"success": True, "commitOid": COMMIT, "commitUrl": address, "hookOutput": "", "pullRequestUrl": None})
        self._answer(b"{}", 400)

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
        self.asked.append((path, self.headers.get("Authorization")))
        if path.startswith("/api/models/"):
            repo = path.removeprefix("/api/models/").partition("/revision")[0]
            if repo not in self.repos:
                return self._missing("RepoNotFound")
            return self._answer({"id": repo, "sha": COMMIT, "siblings": [], "tags": [], "private": False})
        owner, name, resolve, revision, file = path.lstrip("/").split("/", 4)
        if f"{owner}/{name}" not in self.repos:
            return self._missing("RepoNotFound")
        if revision not in ("main", COMMIT):
            return self._missing("RevisionNotFound")
        content = self.repos[f"{owner}/{name}"].get(file)
        if content is None:
            return self._missing("EntryNotFound")
        tag = hashlib.sha256(content).hexdigest()
        self._answer(content, ETag=f'"{tag}"', X_Repo_Commit=COMMIT, Content_Type="application/octet-stream")

    do_HEAD = do_GET


@pytest.fixture
def server(monkeypatch, tmp_path):
    Hub.repos, Hub.asked = {}, []
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{httpd.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    yield Hub
    httpd.shutdown()
    httpd.server_close()


def vgg():
    torch.manual_seed(0)
    return snnfast.models.vgg11(width=0.05, activation="qcfs", levels=4).eval()


NETS = {
    "quantised": vgg,
    "converted": lambda: snnfast.convert(vgg(), "srp", tau=2),
    "direct": lambda: snnfast.models.sdt_cifar(1, 32, 4).eval(),
}


@pytest.mark.parametrize("kind", NETS)
def test_there_and_back(kind, server):
    net, x = NETS[kind](), torch.randn(2, 3, 32, 32)
    address = snnfast.push_to_hub(net, "me/small", token="hf_secret", data="cifar10")
    assert address.endswith(f"/me/small/commit/{COMMIT}") and set(server.repos["me/small"]) == {"model.safetensors", "README.md"}
    mine = [given for path, given in server.asked if path == "/api/repos/create" or "me/small" in path]
    assert len(mine) > 2 and set(mine) == {"Bearer hf_secret"}
    card = server.repos["me/small"]["README.md"].decode()
    assert 'snnfast.from_pretrained("me/small")' in card and '"data": "cifar10"' in card and "library_name: snnfast" in card
    again = snnfast.from_pretrained("me/small")
    here, there = net.state_dict(), again.state_dict()
    assert [key for key in here if not torch.equal(here[key], there[key])] == [] and here.keys() == there.keys()
    if kind == "converted":  # its products sum in an order of their own; torch's may depend on how weights lie
        assert torch.equal(again(x, 5), net(x, 5))
    else:
        assert again.config == net.config
    many = len(server.asked)
    snnfast.from_pretrained("me/small", local_files_only=True)  # from the cache
    assert len(server.asked) == many


def test_what_the_card_says_runs(server):
    snnfast.push_to_hub(vgg(), "me/small")
    block = server.repos["me/small"]["README.md"].decode().split("```python\n")[1].split("```")[0]
    found = {"images": torch.randn(1, 3, 32, 32)}
    exec(block, found)
    assert found["logits"].shape == (1, 10)


def test_a_card_of_ones_own_stays_and_a_second_push_replaces_the_network(server):
    snnfast.push_to_hub(vgg(), "me/small")
    server.repos["me/small"]["README.md"] = b"mine"
    other = NETS["direct"]()
    snnfast.push_to_hub(other, "me/small", message="another")
    assert server.repos["me/small"]["README.md"] == b"mine"
    assert snnfast.from_pretrained("me/small", revision=COMMIT).config["arch"] == "sdt_cifar"


def test_weights_of_ones_own_network_and_files_of_others(server, tmp_path):
    build = lambda: torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    net = build()
    snnfast.push_to_hub(net, "me/mine")
    again = snnfast.from_pretrained("me/mine", net=build())
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values()))
    with pytest.raises(ValueError, match="holds the weights of a network that is none of snnfast.models"):
        snnfast.from_pretrained("me/mine")
    theirs = tmp_path / "theirs.pth"
    torch.save(vgg().state_dict(), theirs)
    server.repos["me/mine"]["theirs.pth"] = theirs.read_bytes()
    assert snnfast.from_pretrained("me/mine", "theirs.pth", levels=4, width=0.05).config["arch"] == "vgg11"
    assert snnfast.from_pretrained(tmp_path, "theirs.pth", levels=4, width=0.05).config["arch"] == "vgg11"


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: snnfast.from_pretrained("me/none"), "me/none has no model.safetensors that can be read: RepositoryNotFoundError"),
        (lambda: snnfast.from_pretrained("me/there", "other.pt"), "me/there has no other.pt that can be read: .*EntryNotFoundError"),
        (lambda: snnfast.from_pretrained("me/there", revision="v9"), "me/there has no model.safetensors .*RevisionNotFoundError"),
        (lambda: snnfast.from_pretrained("a/b/c"), "a/b/c has no model.safetensors that can be read: HFValidationError"),
        (lambda: snnfast.from_pretrained(3), "repo_id must be a str such as 'owner/name', got int"),
        (lambda: snnfast.from_pretrained("me/there", ""), "filename must be the name of a file, got ''"),
        (lambda: snnfast.from_pretrained("me/there", local_files_only=True), "me/there has no model.safetensors .*LocalEntryNotFoundError"),
        (lambda: snnfast.push_to_hub(vgg(), "a/b/c"), "a/b/c cannot be written: "),
        (lambda: snnfast.push_to_hub(3, "me/there"), "net must be a torch.nn.Module, got int"),
        (lambda: snnfast.push_to_hub(vgg(), "me/there", private=1), "private must be True or False"),
        (lambda: snnfast.push_to_hub(vgg(), "me/there", data=object()), "data"),
    ],
)
def test_refused_in_one_line(call, message, server):
    server.repos["me/there"] = {}
    with pytest.raises((ValueError, TypeError), match=message) as error:
        call()
    assert "\n" not in str(error.value) and not server.repos["me/there"]


def test_the_token_is_never_shown(server):
    """A file of a token ends in a newline, which goes; what the hub says of a request may name the request."""
    snnfast.push_to_hub(vgg(), "me/small", token="hf_secret\n")
    for token in ("hf_secret\0", "hf secret", "", 3):
        with pytest.raises(ValueError, match="token must be the text of a token") as error:
            snnfast.from_pretrained("me/small", token=token)
        assert "secret" not in str(error.value)
    with pytest.raises(ValueError, match=r"me/none has no .*\*\*\*") as error:
        snnfast.from_pretrained("me/none", token="me")  # which stands in the address too
    assert error.value.__cause__ is None


def test_a_wrapped_network_is_written_without_its_wrapper(server, tmp_path):
    net = vgg()
    snnfast.push_to_hub(torch.nn.DataParallel(net), "me/small")
    assert snnfast.from_pretrained("me/small").config == net.config
    own = torch.nn.Sequential(torch.nn.Linear(4, 8), snnfast.nn.QCFS(4, 1.0), torch.nn.Linear(8, 2))
    snnfast.save_checkpoint(tmp_path / "own.pt", torch.nn.DataParallel(own))
    again = snnfast.load_weights(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)), tmp_path / "own.pt")
    assert torch.equal(again[1].thresh, own[1].thresh)


def test_folders_of_this_machine(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    snnfast.save_checkpoint(tmp_path / "model.safetensors", vgg())
    assert snnfast.from_pretrained("~").config == snnfast.from_pretrained(tmp_path).config
    for given, message in (
        (tmp_path / "no", "no is not there: give a folder, or a repository"),
        (str(tmp_path / "model.safetensors"), "model.safetensors is no folder: give a folder, or a repository"),
        ("", "repo_id must be 'owner/name', got 0 characters"),
        ("a" * 5000, "repo_id must be 'owner/name', got 5000 characters"),
    ):
        with pytest.raises(ValueError, match=message):
            snnfast.from_pretrained(given)
    with pytest.raises(FileNotFoundError, match="has no net.pt; a folder of this machine comes before a repository of its name"):
        snnfast.from_pretrained(tmp_path, "net.pt")
    with pytest.raises(ValueError, match="revision is of a repository, and .* is a folder of this machine"):
        snnfast.from_pretrained(tmp_path, revision="v9")


def test_without_the_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"this wants the package huggingface_hub: pip install huggingface_hub, or snnfast\[hub\]"):
        snnfast.from_pretrained("me/small")


def test_a_damaged_or_unsafe_file_is_refused_as_any_other(server):
    server.repos["me/there"] = {"model.safetensors": b"no such file", "net.pt": b"cos\nsystem\n(S'true'\ntR."}
    for name in server.repos["me/there"]:
        with pytest.raises(ValueError):
            snnfast.from_pretrained("me/there", name)
