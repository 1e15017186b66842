"""Hostile archives are refused alone, each with its reason; sound ones of any zip program are read."""

import gzip
import io
import json
import os
import tracemalloc
import zlib
from pathlib import Path

import pytest
from archive_samples import ID, SHAPE, archive, chi_map, good_members, write_truth
from hostile_archives import HARMLESS, HOSTILE

from qsmdl.challenge.archive import member_bytes, read_directory
from qsmdl.challenge.inflating import CHUNK, inflate
from qsmdl.challenge.judge import Judged, Refused, find_archives, judge, judge_archive
from qsmdl.challenge.mapfile import largest_file_bytes
from qsmdl.challenge.metrics import score
from qsmdl.challenge.plan import make_plan
from qsmdl.challenge.verdict import write_blind
from qsmdl.errors import InputError


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("truth")
    return make_plan(write_truth(folder), folder / "out")


def put(folder, data, name=f"{ID}.zip"):
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_are_refused_with_their_reason(bench, tmp_path, case):
    make, reason = HOSTILE[case]
    path = put(tmp_path, make())
    tracemalloc.start()
    outcome = judge_archive(path, *bench)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(outcome, Refused)
    assert outcome.file == f"{ID}.zip"
    with pytest.raises(InputError, match=reason):
        raise InputError(outcome.reason)
    assert "provoked" not in outcome.reason
    assert outcome.reason.isascii()
    assert outcome.reason.isprintable()
    assert peak < 30e6
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_there_are_enough_hostile_archives():
    assert len(HOSTILE) >= 20


@pytest.mark.parametrize("case", HARMLESS)
def test_sound_archives_of_any_program_give_the_same_scores(bench, tmp_path, case):
    outcome = judge_archive(put(tmp_path, HARMLESS[case]()), *bench)
    assert isinstance(outcome, Judged), outcome
    for scan, reference in bench[1].items():
        assert outcome.scores[scan] == score(chi_map(scan), reference.chi_ppm, reference.mask, reference.labels)


def test_the_others_go_on(bench, tmp_path):
    cases = list(HOSTILE)
    for index, case in enumerate(cases):
        put(tmp_path, HOSTILE[case][0](), f"AA{index:08d}.zip")
    put(tmp_path, archive(good_members()))
    judged, refused = judge(find_archives(tmp_path), *bench)
    assert [one.identifier for one in judged] == [ID]
    assert len(refused) == len(cases)


@pytest.mark.parametrize("name", ["short.zip", f"{ID}1.zip", "AB12CD34E_.zip", "ÄB12CD34EF.zip"])
def test_names_of_archives_are_identifiers(bench, tmp_path, name):
    outcome = judge_archive(put(tmp_path, archive(good_members()), name), *bench)
    assert isinstance(outcome, Refused)
    assert "10 letters" in outcome.reason


def test_an_archive_in_capitals_is_found_and_refused(bench, tmp_path):
    (path,) = find_archives(put(tmp_path, archive(good_members()), f"{ID}.ZIP").parent)
    assert "Rename it" in judge_archive(path, *bench).reason


def test_what_is_no_plain_file_is_refused(bench, tmp_path):
    target = put(tmp_path, archive(good_members()), "target")
    (tmp_path / f"{ID}.zip").symlink_to(target)
    os.mkfifo(tmp_path / "AA00000001.zip")
    (tmp_path / "AA00000002.zip").mkdir()
    (tmp_path / "AA00000003.zip").symlink_to(tmp_path / "nowhere")
    _, refused = judge(find_archives(tmp_path), *bench)
    assert len(refused) == 4
    assert all("not a plain file" in one.reason for one in refused)


def test_an_archive_larger_than_its_maps_can_be_is_not_even_read(bench, tmp_path):
    outcome = judge_archive(put(tmp_path, bytes(3_000_000)), *bench)
    assert "3000000 bytes, but an archive of maps on this grid has at most" in outcome.reason


def test_expansion_is_limited_also_within_the_size_of_a_map():
    bomb = archive({"zeros.nii": bytes(64 * CHUNK)})
    with pytest.raises(InputError, match=r"more than 100 times: a decompression bomb"):
        read_directory(io.BytesIO(bomb), max_bytes=1 << 30)
    packed = zlib.compress(bytes(64 * CHUNK))
    n_out = 0

    def consume():
        nonlocal n_out
        for piece in inflate([packed], name="zeros", wbits=15, max_bytes=1 << 30):
            n_out += len(piece)

    with pytest.raises(InputError, match="more than 100 times"):
        consume()
    assert n_out <= 8 * CHUNK


def test_the_end_of_the_data_may_come_alone():
    """An empty last block of deflate in a chunk of its own brings no bytes; those of a gzip stream within ended before."""
    content = os.urandom(1000)
    compressor = zlib.compressobj(wbits=-15)
    packed = compressor.compress(gzip.compress(content)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    deflated = inflate([packed, compressor.flush()], name="map.nii.gz", wbits=-15, max_bytes=CHUNK)
    assert b"".join(inflate(deflated, name="map.nii", wbits=31, max_bytes=CHUNK)) == content


def test_a_file_name_that_is_no_text_stops_nobody(bench, tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.zip"))
    path.write_bytes(archive(good_members()))
    _, refused = judge([path], *bench)
    assert [one.file for one in refused] == [r"\udcff\udcfe.zip"]
    write_blind(tmp_path, [], refused)
    assert json.loads((tmp_path / "refused.json").read_text())[0]["file"] == refused[0].file


def test_pieces_are_small_and_whole():
    content = os.urandom(3 * CHUNK + 17)
    for method in (0, 8):
        file = io.BytesIO(archive({"noise.nii": content}, method=method))
        (member,) = read_directory(file, max_bytes=len(content))
        pieces = list(member_bytes(file, member))
        assert max(map(len, pieces)) <= CHUNK
        assert b"".join(pieces) == content


def test_every_truncation_is_refused(bench, tmp_path):
    data = archive(good_members())
    for n_bytes in range(0, len(data), len(data) // 60):
        assert isinstance(judge_archive(put(tmp_path, data[:n_bytes]), *bench), Refused)


def test_flipped_bytes_never_end_the_judge(bench, tmp_path):
    """A byte changed anywhere: refused with a reason, or, where it is in a time or a text, scored as before."""
    data = archive(good_members())
    sound = judge_archive(put(tmp_path, data), *bench)
    for position in [*range(80), *range(len(data) - 250, len(data)), *range(100, len(data), len(data) // 60)]:
        changed = data[:position] + bytes([data[position] ^ 0x5A]) + data[position + 1 :]
        outcome = judge_archive(put(tmp_path, changed), *bench)
        if isinstance(outcome, Judged):
            assert outcome.scores == sound.scores
        else:
            assert "provoked" not in outcome.reason


def _n_handles():
    return len(list(Path("/dev/fd").iterdir()))


def test_no_file_handle_stays_open(bench, tmp_path):
    path = put(tmp_path, HOSTILE["NaN"][0]())
    before = _n_handles()
    for _ in range(5):
        judge_archive(path, *bench)
    assert _n_handles() == before


def test_the_largest_file_holds_a_header_and_float64():
    assert largest_file_bytes(SHAPE) == 352 + 8 * 14 * 18 * 16
