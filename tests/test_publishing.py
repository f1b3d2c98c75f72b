"""Publishing is a transaction: whatever fails, main holds all old files or all new ones, and a rerun finishes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import Hub

from r2anker_hf.publishing.hub import Limits, PublishingError, link, local_files, publish, version_tag

pytestmark = pytest.mark.hub
REPOSITORY = Path(__file__).resolve().parents[1]
QUICK = Limits(timeout=5.0, attempts=3, first_wait=0.0, longest_wait=0.0)
NEW = {"README.md": b"---\nlicense: mit\n---\nnew", "model.safetensors": b"new" * 99, "config/a.json": b"{}"}
OLD = {"README.md": b"old", "model.safetensors": b"old" * 99, "gone.safetensors": b"gone"}


@pytest.fixture
def hub(monkeypatch):
    """A Hub that the clients of this process may talk to, without Xet, and without the library's own waits."""
    import huggingface_hub.file_download as downloads
    import huggingface_hub.utils._http as http
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    for module in (http, downloads):
        monkeypatch.setattr(module, "time", SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None}))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with Hub() as hub:
        yield hub


def folder(tmp_path, files, name="prepared"):
    for path, content in files.items():
        (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name / path).write_bytes(content)
    return tmp_path / name


def send(hub, prepared, version="1.0.0", repo_id="me/ranker", token="hf_write", **options):
    options = {"kind": "ranker", "limits": QUICK} | options
    return publish(prepared, repo_id, version=version, token=token, endpoint=hub.endpoint, **options)


def published(hub, prepared, *checks):
    """What a clean end looks like: the files on main, one commit for them, the tag there, nothing left over."""
    repo = hub.repos["model", "me/ranker"]
    assert hub.content("me/ranker") == {path: (prepared / path).read_bytes() for path in local_files(prepared)}
    assert repo.refs["refs/tags/v1.0.0"] == repo.refs["refs/heads/main"]
    assert {name for name in repo.refs if name.startswith("refs/heads/")} == {"refs/heads/main"}
    assert history(repo)[0] == "r2anker_hf: ranker v1.0.0" and history(repo).count("r2anker_hf: ranker v1.0.0") == 1
    return repo


def history(repo):
    titles, commit = [], repo.refs["refs/heads/main"]
    while commit:
        titles.append(repo.commits[commit].title)
        commit = repo.commits[commit].parent
    return titles


def test_a_folder_becomes_one_private_commit_with_a_tag_and_a_receipt(hub, tmp_path):
    prepared, seen = folder(tmp_path, NEW), []
    receipt = send(hub, prepared, checks=lambda got: seen.append(sorted(path.name for path in got.iterdir())))
    repo = published(hub, prepared)
    assert repo.private and receipt.private and receipt.new and receipt.version == "v1.0.0"
    assert receipt.commit == repo.refs["refs/heads/main"]
    assert seen == [["README.md", "config", "model.safetensors"]]
    receipt.write(tmp_path / "receipt.json")
    written = json.loads((tmp_path / "receipt.json").read_text())
    assert written["files"]["config/a.json"] == {
        "bytes": 2,
        "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    }
    with open(tmp_path / "receipt.json") as file:
        assert json.load(file)["url"].endswith(f"/me/ranker/tree/{receipt.commit}")


def test_publishing_again_sends_nothing(hub, tmp_path):
    prepared = folder(tmp_path, NEW)
    first = send(hub, prepared)
    hub.requests.clear()
    second = send(hub, prepared)
    assert (second.commit, second.new) == (first.commit, False)
    assert {method for method, _ in hub.requests} == {"GET"}


def test_a_new_version_replaces_all_files_and_the_old_tag_stays(hub, tmp_path):
    first = send(hub, folder(tmp_path, OLD, "old"), "0.1.0")
    prepared = folder(tmp_path, NEW)
    send(hub, prepared)
    published(hub, prepared)
    assert hub.content("me/ranker", revision="v0.1.0") == OLD
    assert send(hub, tmp_path / "old", "0.1.0").commit == first.commit  # main stays at the newer version
    published(hub, prepared)


def test_public_only_at_the_end(hub, tmp_path):
    prepared, hidden = folder(tmp_path, NEW), []
    receipt = send(
        hub, prepared, private=False, checks=lambda _: hidden.append(hub.repos["model", "me/ranker"].private)
    )
    assert hidden == [True] and not receipt.private and not published(hub, prepared).private


def test_a_card_that_the_hub_refuses(hub, tmp_path):
    prepared = folder(tmp_path, NEW | {"README.md": b"---\nlicense: mit\n"})
    with pytest.raises(PublishingError, match="committing to publish-.* the metadata block is not closed"):
        send(hub, prepared)
    assert hub.content("me/ranker") == {}


def test_a_repository_that_is_there_only_after_a_while(hub, tmp_path):
    hub.fail("GET /api/models/me/ranker/revision/main", 404, times=3, X_Error_Code="RepoNotFound")
    hub.fail("GET /api/models/me/ranker/revision/publish-.*", 404, times=2, X_Error_Code="RevisionNotFound")
    assert send(hub, folder(tmp_path, NEW)).new


def test_large_files_are_sent_once(hub, tmp_path):
    send(hub, folder(tmp_path, NEW))
    puts = [path for method, path in hub.requests if method == "PUT"]
    assert len(puts) == 1 and puts[0].startswith("/cdn/")


# What is refused before anything is written


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token": "hf_read"}, "the token of me may only read"),
        ({"token": "hf_nobody"}, "401: Invalid user token"),
        ({"repo_id": "them/ranker"}, "me may not publish there, only under me, lab"),
        ({"repo_id": "guests/ranker"}, "only under me, lab"),
        ({"repo_id": "ranker"}, "not of the form owner/name"),
        ({"repo_id": "me/a b"}, "repo_id 'me/a b'"),
        ({"version": "one"}, "version 'one' is not of the form 1.2.3"),
    ],
)
def test_refused_early(hub, tmp_path, options, message):
    with pytest.raises(PublishingError, match=re.escape(message)) as refused:
        send(hub, folder(tmp_path, NEW), **options)
    assert "\n" not in str(refused.value)
    assert not hub.repos and {method for method, _ in hub.requests} <= {"GET"}


def test_no_token_is_said_so(hub, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(PublishingError, match="no token: set HF_TOKEN"):
        send(hub, folder(tmp_path, NEW), token=None)


def test_a_link_is_not_followed(tmp_path):
    prepared = folder(tmp_path, NEW)
    (prepared / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PublishingError, match="key: is a link"):
        local_files(prepared)


def test_versions():
    assert [version_tag(name) for name in ("1.0.0", "v2.1.3", "1.0.0-rc.1")] == ["v1.0.0", "v2.1.3", "v1.0.0-rc.1"]


def test_a_fine_grained_token_needs_the_right_to_write_there(hub, tmp_path, monkeypatch):
    from huggingface_hub import HfApi

    def whoami(api, *permissions):
        scoped = [{"entity": {"name": "me", "type": "user"}, "permissions": list(permissions)}]
        token = {"role": "fineGrained", "fineGrained": {"scoped": scoped}}
        return {"name": "me", "orgs": [], "auth": {"accessToken": token}}

    monkeypatch.setattr(HfApi, "whoami", lambda api: whoami(api, "repo.content.read"))
    with pytest.raises(PublishingError, match="the token of me has no permission repo.write for me/ranker"):
        send(hub, folder(tmp_path, NEW))
    assert not hub.repos
    monkeypatch.setattr(HfApi, "whoami", lambda api: whoami(api, "repo.content.read", "repo.write"))
    assert send(hub, tmp_path / "prepared").new


def test_a_foreign_repository_of_that_name_is_left_alone(hub, tmp_path):
    hub.commit("me/ranker", OLD, kind="model")
    with pytest.raises(PublishingError, match="not published from here .it holds README.md, gone.safetensors, mod"):
        send(hub, folder(tmp_path, NEW), private=False)
    assert hub.content("me/ranker") == OLD and len(hub.repos["model", "me/ranker"].commits) == 1
    assert send(hub, tmp_path / "prepared", repo_id="me/other").new


def test_a_repository_keeps_its_kind(hub, tmp_path):
    send(hub, folder(tmp_path, OLD, "old"), kind="retriever")
    with pytest.raises(PublishingError, match="model me/ranker holds a retriever, no ranker"):
        send(hub, folder(tmp_path, NEW), "2.0.0")
    assert hub.content("me/ranker") == OLD


def test_a_public_repository_is_refused_where_private_was_asked(hub, tmp_path):
    send(hub, folder(tmp_path, OLD, "old"), "0.1.0", private=False)
    with pytest.raises(PublishingError, match="is public, but private was asked for"):
        send(hub, folder(tmp_path, NEW))
    assert hub.content("me/ranker") == OLD
    hub.repos["model", "me/ranker"].private = True
    send(hub, tmp_path / "prepared")
    published(hub, tmp_path / "prepared")


def test_a_version_is_never_published_twice(hub, tmp_path):
    send(hub, folder(tmp_path, OLD, "old"))
    with pytest.raises(PublishingError, match="v1.0.0 is published with other files .*choose another version"):
        send(hub, folder(tmp_path, NEW))
    assert hub.content("me/ranker") == OLD and send(hub, tmp_path / "prepared", "1.0.1").new


def test_checks_that_fail_leave_main_alone(hub, tmp_path):
    send(hub, folder(tmp_path, OLD, "old"), "0.1.0")

    def wrong(got):
        raise PublishingError(f"golden scores differ in {sorted(got.glob('*.safetensors'))[0].name}")

    with pytest.raises(PublishingError, match="golden scores differ in model.safetensors"):
        send(hub, folder(tmp_path, NEW), checks=wrong)
    assert hub.content("me/ranker") == OLD
    send(hub, tmp_path / "prepared")
    published(hub, tmp_path / "prepared")


# Faults of the Hub and of the way to it

CALLS = [
    "GET /api/whoami-v2",
    "GET /api/models/me/ranker/revision/main",
    "POST /api/repos/create",
    "GET /api/models/me/ranker/tree/.*",
    "GET /api/models/me/ranker/refs",
    "GET /api/models/me/ranker/commits/.*",
    "POST /api/models/me/ranker/branch/publish-.*",
    "GET /api/models/me/ranker/revision/publish-.*",
    "POST /api/validate-yaml",
    "POST /api/models/me/ranker/preupload/.*",
    "POST /me/ranker.git/info/lfs/objects/batch",
    "PUT /cdn/.*",
    "POST /me/ranker.git/info/lfs/verify",
    "POST /api/models/me/ranker/commit/publish-.*",
    "HEAD /me/ranker/resolve/.*",
    "GET /me/ranker/resolve/.*",
    "GET /cdn/.*",
    "POST /api/models/me/ranker/paths-info/.*",
    "POST /api/models/me/ranker/commit/main",
    "POST /api/models/me/ranker/tag/.*",
    "DELETE /api/models/me/ranker/branch/publish-.*",
    "PUT /api/models/me/ranker/settings",
]
ONLY_FIRST = {"POST /api/repos/create"}
HARMLESS = {"DELETE /api/models/me/ranker/branch/publish-.*"}


def start(hub, tmp_path, call):
    """What main held before: an older version, or no repository at all where that is what the call is about."""
    if call in ONLY_FIRST:
        return {}
    send(hub, folder(tmp_path, OLD, "old"), "0.1.0")
    return OLD


def finishes(hub, tmp_path, before):
    """After a failure main is the old one or the new one, and the same call brings the publication to its end."""
    prepared = tmp_path / "prepared"
    assert hub.content("me/ranker") in (before, NEW)
    hub.faults.clear()
    receipt = send(hub, prepared, private=False)
    assert receipt.commit == published(hub, prepared).refs["refs/heads/main"] and not receipt.private
    assert not hub.repos["model", "me/ranker"].private


def test_the_list_of_calls_is_complete(hub, tmp_path):
    send(hub, folder(tmp_path, OLD, "old"), "0.1.0")
    send(hub, folder(tmp_path, NEW), private=False)
    made = {f"{method} {path}" for method, path in hub.requests}
    assert [call for call in made if not any(re.fullmatch(known, call) for known in CALLS)] == []
    assert [known for known in CALLS if not any(re.fullmatch(known, call) for call in made)] == []


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_fails_once_is_made_again(hub, tmp_path, call, status):
    before = start(hub, tmp_path, call)
    fault = hub.fail(call, status, times=1, Retry_After="0")
    send(hub, folder(tmp_path, NEW), private=False)
    assert fault.times == 0
    finishes(hub, tmp_path, before)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_keeps_failing_ends_in_one_line(hub, tmp_path, call, status):
    before = start(hub, tmp_path, call)
    hub.fail(call, status, times=float("inf"))
    prepared = folder(tmp_path, NEW)
    if call in HARMLESS:
        with pytest.warns(UserWarning, match=f"everything is published, but .*{status}"):
            send(hub, prepared, private=False)
    else:
        with pytest.raises(PublishingError, match=str(status)) as failed:
            send(hub, prepared, private=False)
        assert "\n" not in str(failed.value)
    finishes(hub, tmp_path, before)


WRITES = [call for call in CALLS if call.split()[0] not in ("GET", "HEAD") and "paths-info" not in call]


@pytest.mark.parametrize("how", [503, "drop"])
@pytest.mark.parametrize("call", WRITES)
def test_a_write_whose_answer_is_lost_is_not_repeated(hub, tmp_path, call, how):
    before = start(hub, tmp_path, call)
    fault = hub.fail(call, how, times=1, applied=True)
    hub.requests.clear()
    send(hub, folder(tmp_path, NEW), private=False)
    assert fault.times == 0
    if "commit/" in call or "repos/create" in call or "tag/" in call:
        assert sum(bool(re.fullmatch(call, f"{method} {path}")) for method, path in hub.requests) == 1
    finishes(hub, tmp_path, before)


@pytest.mark.parametrize("call", CALLS)
def test_a_stalled_hub_is_given_up(hub, tmp_path, call):
    before = start(hub, tmp_path, call)
    hub.fail(call, "stall", times=float("inf"))
    prepared, impatient = folder(tmp_path, NEW), Limits(0.1, 60, 1, 0, 0)
    started = time.monotonic()
    if call in HARMLESS:
        with pytest.warns(UserWarning, match="everything is published, but .*timed out"):
            send(hub, prepared, private=False, limits=impatient)
    else:
        with pytest.raises(PublishingError, match="timed out"):
            send(hub, prepared, private=False, limits=impatient)
    assert time.monotonic() - started < 30
    finishes(hub, tmp_path, before)


def test_no_call_is_begun_after_the_deadline(hub, tmp_path):
    hub.fail("GET /api/whoami-v2", 503, times=float("inf"), Retry_After="30")
    started = time.monotonic()
    with pytest.raises(PublishingError, match="asking whose token this is: the Hub answered 503"):
        send(hub, folder(tmp_path, NEW), limits=Limits(deadline=20, attempts=99))
    assert time.monotonic() - started < 5 and len(hub.requests) == 1


def test_nobody_there_is_one_line(hub, tmp_path):
    hub.__exit__()
    with pytest.raises(PublishingError, match="asking whose token this is: .*refused"):
        send(hub, folder(tmp_path, NEW))
    hub._server.serve_forever = lambda *_: None


@pytest.mark.parametrize("same", [True, False])
def test_a_second_publisher_in_between(hub, tmp_path, same):
    """It commits to main while this one checks: the commit to main is refused with 412."""
    before = start(hub, tmp_path, "")
    other = folder(tmp_path, NEW if same else NEW | {"README.md": b"theirs"}, "other")
    prepared = folder(tmp_path, NEW)

    def meanwhile(_):
        send(hub, other, "1.0.0" if same else "0.9.0")

    if same:
        assert send(hub, prepared, checks=meanwhile).commit
    else:
        with pytest.raises(PublishingError, match="committing to main: the Hub answered 412: A commit has happened"):
            send(hub, prepared, checks=meanwhile)
        assert hub.content("me/ranker") == NEW | {"README.md": b"theirs"}
        before = hub.content("me/ranker")
    finishes(hub, tmp_path, before)


@pytest.mark.parametrize("status", [409, 412])
def test_a_conflict_that_the_hub_reports(hub, tmp_path, status):
    before = start(hub, tmp_path, "")
    hub.fail("POST /api/models/me/ranker/commit/main", status)
    with pytest.raises(PublishingError, match=f"committing to main: the Hub answered {status}"):
        send(hub, folder(tmp_path, NEW))
    assert hub.content("me/ranker") == before
    finishes(hub, tmp_path, before)


@pytest.mark.parametrize("how", ["truncate", "corrupt"])
@pytest.mark.parametrize("file", ["/cdn/.*", "/me/ranker/resolve/[^/]*/README.md"])
def test_a_damaged_download_is_noticed(hub, tmp_path, how, file):
    before = start(hub, tmp_path, "")
    hub.fail(f"GET {file}", how, times=float("inf"))
    with pytest.raises(PublishingError, match="downloaded differs|downloading what was sent"):
        send(hub, folder(tmp_path, NEW))
    assert hub.content("me/ranker") == before
    finishes(hub, tmp_path, before)


ALONE = """
import sys
from pathlib import Path
from r2anker_hf.publishing.hub import publish
publish(Path(sys.argv[1]), "me/ranker", kind="ranker", private=False)
"""


@pytest.mark.parametrize("call", ["PUT /cdn/.*", "POST .*/commit/main", "POST .*/tag/.*"])
def test_a_killed_publication_is_finished_by_the_next(hub, tmp_path, call):
    before = start(hub, tmp_path, "")
    fault = hub.fail(call, "stall", times=1)
    environment = hub.environment(tmp_path / "home", "hf_write") | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, "-c", ALONE, str(folder(tmp_path, NEW))], env=environment)
    while fault.times and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert hub.content("me/ranker") == (NEW if "tag" in call else before)
    finishes(hub, tmp_path, before)


def test_by_xet_as_by_lfs(tmp_path):
    """Large files as the real Hub's clients send and fetch them: in chunks."""
    pytest.importorskip("hf_xet")
    files = NEW | {"model.safetensors": bytes(range(256)) * 1000}
    with Hub(xet=tmp_path / "xet") as hub:
        environment = hub.environment(tmp_path / "home", "hf_write") | {"PYTHONPATH": str(REPOSITORY)}
        subprocess.run([sys.executable, "-c", ALONE, str(folder(tmp_path, files))], env=environment, check=True)
        published(hub, tmp_path / "prepared")
        called = [path for _, path in hub.requests]
    assert any("xet-write-token" in path for path in called) and any("xet-read-token" in path for path in called)
    assert not any(path.startswith("/cdn/") or "lfs" in path for path in called)


def test_three_repositories_in_one_collection(hub, tmp_path):
    for name, kind in (("ranker", "model"), ("negatives", "dataset"), ("retriever", "model")):
        hub.commit(f"me/{name}", NEW, kind=kind)
    options = {"token": "hf_write", "endpoint": hub.endpoint, "limits": QUICK}
    repos = [("me/ranker", "model"), ("me/negatives", "dataset")]
    hub.fail("POST /api/collections", "drop", applied=True)
    hub.fail("POST /api/collections/.*/items", 503, applied=True)
    url = link("Ranker and what made it", repos, **options)
    assert link("Ranker and what made it", [*repos, ("me/retriever", "model")], **options) == url
    (collection,) = hub.collections.values()
    assert [(item["id"], item["type"]) for item in collection["items"]] == [*repos, ("me/retriever", "model")]
    assert collection["private"] and url.endswith(collection["slug"])


def test_the_hub_keeps_its_state_in_a_folder(hub, tmp_path):
    with Hub(tmp_path / "hub") as first:
        receipt = send(first, folder(tmp_path, NEW))
    with Hub(tmp_path / "hub") as second:
        assert second.content("me/ranker", revision="v1.0.0") == NEW
        assert send(second, tmp_path / "prepared").commit == receipt.commit
