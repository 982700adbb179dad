"""Who wants harm gets nowhere: pickles run nothing, archives write nothing, texts stay texts."""

import dataclasses
import gzip
import html.parser
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import bad_files
import bad_requests
import numpy as np
import pytest
from bad_answers import DIGITS, answer, explore, faults, go_nowhere, of_case, refusal, row_of, trained
from bad_files import all_names, tar_gz
from bad_requests import HOSTILE
from hypothesis import strategies as st

from jaxtrain.data import cifar, load_data
from jaxtrain.data.plain_pickle import read_plain_pickle
from jaxtrain.errors import WorldError
from jaxtrain.report.facts import Facts, Finding, gather_facts
from jaxtrain.report.pages import render
from jaxtrain.report.pictures import Picture, Place
from jaxtrain.report.write import page_values

DOT = bad_files.PNG + bytes(8) + (1).to_bytes(4, "big") * 2


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_nowhere(tmp_path, monkeypatch)


@faults(ci=8, full=36)
def test_a_hostile_pickle_does_nothing(case: int, tmp_path: Path, record_property: Any) -> None:
    canary = tmp_path / "canary"
    pickles = bad_requests.hostile_pickles(canary)
    bad_files.write(tmp_path / "cifar10", bad_files.cifar_python())
    chosen = pickles[case % 6 :: 6] if case < 6 else [pickles[case % len(pickles)]]
    before = all_names([tmp_path])
    for content in chosen:
        (tmp_path / "cifar10/data_batch_3").write_bytes(content)
        error = refusal(lambda: cifar.read_cifar10(tmp_path / "cifar10"))
        assert isinstance(error, WorldError) and "data_batch_3" in str(error)
    record_property("pickles", len(chosen))
    code = st.lists(st.one_of(st.sampled_from(_CODES), st.binary(max_size=3)), max_size=20).map(b"".join)

    def claim(code: bytes) -> None:
        answer(lambda: read_plain_pickle(canary, b"\x80\x02" + code + b"."))

    explore(case, code, claim, 100)
    assert all_names([tmp_path]) == before


_CODES = [bytes([code]) for code in b"(]}tueasRbN0\x85\x86\x93"] + [b"K\x01", b"q\x00", b"h\x00", b"U\x01x"]
_CODES += [b"cos\nsystem\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n"]

_BATCHES = {f"x/{name}": content for name, content in bad_files.cifar_binary().items()}
_FIRST = "x/data_batch_1.bin"
_ZEROS = tarfile.TarInfo("zeros")
_ZEROS.size = 8**11 - 1
_EIGHT_GIGABYTES = gzip.compress(_ZEROS.tobuf(tarfile.USTAR_FORMAT))
_ZEROS.size = 10**15
_PETABYTE = gzip.compress(_ZEROS.tobuf(tarfile.GNU_FORMAT))
ARCHIVES: dict[str, tuple[bytes, str]] = {
    "a symbolic link": (tar_gz({**_BATCHES, _FIRST: None}, {_FIRST: tarfile.SYMTYPE}), "lacks data_batch_1"),
    "a hard link": (tar_gz({**_BATCHES, _FIRST: None}, {_FIRST: tarfile.LNKTYPE}), "lacks data_batch_1"),
    "a device": (tar_gz({**_BATCHES, _FIRST: None}, {_FIRST: tarfile.CHRTYPE}), "lacks data_batch_1"),
    "a pipe": (tar_gz({**_BATCHES, _FIRST: None}, {_FIRST: tarfile.FIFOTYPE}), "lacks data_batch_1"),
    "a folder": (tar_gz({**_BATCHES, _FIRST: None}, {_FIRST: tarfile.DIRTYPE}), "lacks data_batch_1"),
    "twice": (tar_gz({**_BATCHES, "y/data_batch_1": _BATCHES[_FIRST]}), "holds data_batch_1 twice"),
    "eight gigabytes": (_EIGHT_GIGABYTES, "'zeros' would have 8589934591 bytes"),
    "a petabyte": (_PETABYTE, "no octal number"),
    "behind the end": (tar_gz(_BATCHES)[:-8] + b"12345678", "damaged"),
}


@faults(ci=9, full=49)
def test_an_archive_is_read_and_never_unpacked(case: int, tmp_path: Path) -> None:
    path, random = tmp_path / "cifar-10-binary.tar.gz", of_case(case)
    _, (content, expected) = row_of(ARCHIVES, case)
    path.write_bytes(content)
    before = all_names([tmp_path])
    assert expected in str(refusal(lambda: cifar.read_cifar10(path)))
    escaping = {f"../../{_FIRST}": b"", "/tmp/canary": b"x", "../canary": b"x"}
    renamed = {name.replace("x/", "../../x/"): content for name, content in _BATCHES.items()}
    path.write_bytes(tar_gz({**renamed, **{name: c for name, c in escaping.items() if name not in renamed}}))
    good = cifar.read_cifar10(path)
    raw = gzip.decompress(tar_gz(_BATCHES))
    headers = [at for at in range(0, len(raw), 512) if raw[at + 257 : at + 262] == b"ustar"]
    for _ in range(25):
        changed = bytearray(raw)
        for _ in range(int(random.integers(1, 4))):
            changed[headers[int(random.integers(len(headers)))] + int(random.integers(512))] = int(random.integers(256))
        path.write_bytes(gzip.compress(bytes(changed), 1))
        found = answer(lambda: cifar.read_cifar10(path))
        assert isinstance(found, WorldError) or all(map(np.array_equal, found[0], good[0]))
    assert all_names([tmp_path]) == before and not Path("/tmp/canary").exists()


class Page(html.parser.HTMLParser):
    """The tags of a page, and the attributes that can do something."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.active: list[tuple[str, str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            inside = (value or "").startswith(("#", "data:image/png;base64,"))
            if name.startswith("on") or (name in ("src", "href", "action", "data", "srcdoc") and not inside):
                self.active.append((tag, name, value))


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """All that the report of a small run says."""
    run = trained(tmp_path_factory.mktemp("facts") / "run")
    diagnosis = [Finding("it is fine", "go on", "good")]
    return gather_facts(run, load_data(DIGITS.data), run.folder, diagnosis=diagnosis, baseline=False)


def _pages(facts: Facts) -> tuple[str, str]:
    """Both pages, with a dot for each figure."""
    drawn = [Picture(place, place, "", DOT, f"report/{place}.png") for place in get_args(Place)]
    values = page_values(facts, drawn)
    return render("report.html.j2", **values), render("report.md.j2", **values)


_MEANT = {"kind", "split", "metric", "status", "final", "verdict"}
"""What the words of a report look up or compare."""


def _with_texts(value: Any, text: str) -> Any:
    """`value` with every text in it replaced."""
    if isinstance(value, str):
        return text
    if isinstance(value, Mapping):
        return {key: part if key in _MEANT else _with_texts(part, text) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return type(value)(**_with_texts(value._asdict(), text))  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, tuple | list):
        return type(value)(_with_texts(part, text) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **_with_texts(parts, text))
    return value


@faults(ci=2, full=12)
def test_no_text_of_others_becomes_markup_in_a_report(case: int, facts: Facts) -> None:
    plain, _ = _pages(_with_texts(facts, "plain"))
    tags = Page(plain).tags
    hostile = st.one_of(st.sampled_from(HOSTILE), st.text(st.sampled_from("<>&\"'`/ =a![]()|{}%#\\$*_-"), min_size=1))

    def claim(text: str) -> None:
        page, markdown = map(str, _pages(_with_texts(facts, text)))
        assert Page(page).tags == tags and not Page(page).active
        assert not re.search(r"<[a-zA-Z/!?]", re.sub(r"(`+).*?\1", "", markdown, flags=re.DOTALL))

    for text in HOSTILE:
        claim(text)
    explore(case, hostile, claim, 10)
