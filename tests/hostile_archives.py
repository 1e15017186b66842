"""Every way in which a stranger's archive can be wrong, and some in which it may look."""

import gzip
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable

import nibabel as nib
import numpy as np
from archive_samples import ID, SHAPE, SIM1, SIM2, archive, chi_map, good_members, nifti, patched, streamed_archive, with_map

LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"


def _named(name):
    return lambda: archive({**good_members(), name: b"x"})


def _renamed(name):
    return lambda: archive([(name, nifti(chi_map("Sim1"))), (SIM2, nifti(chi_map("Sim2")))])


def _with_info(**attributes):
    def change(info):
        for key, value in attributes.items():
            setattr(info, key, value)

    return lambda: archive(good_members(), change=change)


def _in_central(offset, content):
    return lambda: patched(archive(good_members()), CENTRAL, offset, content)


def _in_local(offset, content):
    return lambda: patched(archive(good_members()), LOCAL, offset, content)


def _in_both(central, local, content):
    return lambda: patched(_in_central(central, content)(), LOCAL, local, content)


def _overlapping():
    """Both entries of the directory lead to one member, as in a bomb of overlapping files."""
    return patched(archive(good_members()), CENTRAL, 42, struct.pack("<L", 0), last=True)


def _shifted(data, position, filling):
    """Bytes put in; the directory's place in the end record and all later members' places are corrected."""
    data = data[:position] + filling + data[position:]
    end = data.rindex(END)
    directory = struct.unpack_from("<L", data, end + 16)[0] + len(filling)
    data = patched(data, END, 16, struct.pack("<L", directory), last=True)
    entry = data.index(CENTRAL)
    while data[entry : entry + 4] == CENTRAL:
        begin = struct.unpack_from("<L", data, entry + 42)[0]
        data = data[: entry + 42] + struct.pack("<L", begin + (len(filling) if begin >= position else 0)) + data[entry + 46 :]
        entry += 46 + sum(struct.unpack_from("<3H", data, entry + 28))
    return data


def _hidden_bytes():
    data = archive(good_members())
    return _shifted(data, data.index(LOCAL, 4), b"by the hospital of")


def _lying_size():
    """Declares the size of a map; a hundred times as much comes out."""
    bomb = archive({SIM1: bytes(100 * 4 * 14 * 18 * 16), SIM2: nifti(chi_map("Sim2"))})
    size = struct.pack("<L", len(nifti(chi_map("Sim1"))))
    return patched(patched(bomb, CENTRAL, 24, size), LOCAL, 22, size)


def _damaged_deflate():
    data = archive(good_members())
    return data[: 30 + len(SIM1) + 500] + b"\xff" * 200 + data[30 + len(SIM1) + 700 :]


def _nifti2():
    image = nib.Nifti2Image(chi_map("Sim1"), np.eye(4))
    return with_map(image.to_bytes())


def _with_extension():
    image = nib.Nifti1Image(chi_map("Sim1"), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Dr. Example, Hospital of Nowhere"))
    return with_map(image.to_bytes())


def _with_axes(*dim):
    return lambda: with_map(nifti(chi_map("Sim1"), patches=[(40, struct.pack(f"<{len(dim)}h", *dim))]))


def _bad_value(*values):
    chi = chi_map("Sim1").astype(np.float64)
    chi.flat[: len(values)] = values
    return lambda: with_map(nifti(chi, dtype=np.float64))


def _rgb():
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    return with_map(nib.Nifti1Image(np.zeros(SHAPE, kind), np.eye(4)).to_bytes())


def _unicode_path():
    """The Info-ZIP field that gives a member a second name."""
    name = b"../evil.nii"
    extra = struct.pack("<2HBL", 0x7075, 5 + len(name), 1, zlib.crc32(SIM1.encode())) + name
    return _with_info(extra=extra)()


GZIPPED = f"{SIM1}.gz"
SHORT = nifti(chi_map("Sim1"))
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    # names
    "path escape": (_named("../evil.nii"), "path, a drive or a hidden name"),
    "absolute path": (_named("/tmp/evil.nii"), "path, a drive or a hidden name"),
    "drive letter": (_named("C:evil.nii"), "path, a drive or a hidden name"),
    "backslashes": (_named("..\\..\\evil.nii"), "path, a drive or a hidden name"),
    "folder": (_renamed(f"maps/{SIM1}"), "path, a drive or a hidden name"),
    "hidden file": (_named(".DS_Store"), "path, a drive or a hidden name"),
    "look-alike letters": (_renamed(SIM1.replace("S", "Ｓ")), "non-ASCII"),  # noqa: RUF001
    "zero byte in a name": (lambda: archive(good_members()).replace(SIM1.encode(), SIM1.encode()[:-4] + b"\0.sh"), "control"),
    "terminal codes in a name": (_named("\x1b[2Jevil.nii"), r"control or non-ASCII"),
    "no name": (lambda: archive({**good_members(), "": b"x"}), "empty"),
    "second name in an extra field": (_unicode_path, "0x7075"),
    "duplicate names": (lambda: archive([(SIM1, SHORT), (SIM1, SHORT)]), "two members are called"),
    "names that differ in case": (lambda: archive([(SIM1, SHORT), (SIM1.upper(), SHORT)]), "two members are called"),
    "two maps of a scan": (_named(GZIPPED), "two maps of Sim1"),
    "a file too many": (_named("readme.txt"), "nothing else"),
    "a nested archive": (_named("more.zip"), "nothing else"),
    "an .hdr/.img pair": (lambda: archive({SIM1[:-4] + ".hdr": SHORT[:348], SIM1[:-4] + ".img": SHORT[352:]}), "nothing else"),
    "another identifier": (_renamed(SIM1.replace(ID, "ZZ12CD34EF")), "nothing else"),
    "the other stage": (_renamed(f"{ID}_Sim1Snr1_Step2.nii"), "nothing else"),
    "a map missing": (lambda: archive({SIM1: SHORT}), "no map of Sim2"),
    # kinds of members
    "symbolic link": (_with_info(create_system=3, external_attr=(stat.S_IFLNK | 0o777) << 16), "symbolic link"),
    "hard link": (_with_info(extra=struct.pack("<2H2L2H", 0x000D, 16, 0, 0, 0, 0) + b"/etc"), "0x000d"),
    "device": (_with_info(create_system=3, external_attr=(stat.S_IFCHR | 0o666) << 16), "special file"),
    "folder attribute": (_with_info(external_attr=0x10), "a folder"),
    "encrypted": (_in_both(8, 6, b"\x01\x00"), "encrypted"),
    "unknown flags": (_in_both(8, 6, b"\x20\x00"), "flags"),
    "bzip2": (lambda: archive(good_members(), method=zipfile.ZIP_BZIP2), "method 12"),
    "comment of a member": (_with_info(comment=b"by Dr. Example"), "comment"),
    # structure
    "empty file": (lambda: b"", "0 bytes"),
    "not a zip": (lambda: b"Dear organisers, please find our maps attached." * 9, "truncated, not a zip archive"),
    "truncated": (lambda: archive(good_members())[:-2000], "truncated, not a zip archive"),
    "empty archive": (lambda: archive({}), "declares 0 members"),
    "comment of the archive": (lambda: archive(good_members(), comment=b"by Dr. Example"), "comment"),
    "bytes in front": (lambda: b"#!/bin/sh\n" + archive(good_members()), "put before"),
    "bytes in front, offsets corrected": (lambda: _shifted(archive(good_members()), 0, b"#!/bin/sh\n"), "bytes that belong to none"),
    "bytes behind": (lambda: archive(good_members()) + b"tail", "after its end"),
    "bytes between members": (_hidden_bytes, "bytes that belong to none"),
    "thousands of members": (lambda: archive({f"{i}.nii": b"" for i in range(3000)}), "declares 3000 members"),
    "zip64": (lambda: patched(archive(good_members()), END, 16, b"\xff" * 4), "zip64"),
    "zip64 sizes in an extra field": (_with_info(extra=struct.pack("<2H2Q", 0x0001, 16, 1 << 40, 1 << 40)), "0x0001"),
    "split archive": (lambda: patched(archive(good_members()), END, 4, b"\x01\x00"), "split"),
    "overlapping members": (_overlapping, "contradicts|overlap"),
    "another name in front of the data": (_in_local(30, b"ZZ"), "contradicts the archive's directory"),
    "another size in front of the data": (_in_local(22, b"\x01\x02\x00\x00"), "contradicts the archive's directory"),
    "directory entries damaged": (_in_central(28, b"\xff\x7f"), "no entry"),
    "descriptor contradicts": (lambda: patched(streamed_archive(good_members()), b"PK\x07\x08", 4, b"\0\0\0\0"), "descriptor"),
    # content
    "declared bomb": (_in_both(24, 22, struct.pack("<L", 4_000_000_000)), "declares 4000000000 bytes"),
    "real bomb": (lambda: with_map(bytes(50_000_000)), "declares 50000000 bytes"),
    "bomb that lies about its size": (_lying_size, "expands to more than"),
    "gzip bomb": (lambda: with_map(gzip.compress(bytes(30_000_000)), GZIPPED), "expands to more than"),
    "gzip bomb within a gzip bomb": (lambda: with_map(gzip.compress(gzip.compress(bytes(30_000_000))), GZIPPED), "compressed by gzip"),
    "wrong CRC": (_in_both(16, 14, b"\1\2\3\4"), "CRC"),
    "damaged compression": (_damaged_deflate, "damaged"),
    "cut-off gzip": (lambda: with_map(gzip.compress(SHORT)[:-3000], GZIPPED), "end too early"),
    "two gzip streams": (lambda: with_map(gzip.compress(SHORT) + gzip.compress(SHORT), GZIPPED), "bytes follow the end"),
    "gzip under a plain name": (lambda: with_map(gzip.compress(SHORT)), "compressed by gzip"),
    "plain under a gzip name": (lambda: with_map(SHORT, GZIPPED), "damaged"),
    "zip within": (lambda: with_map(archive(good_members(), method=zipfile.ZIP_DEFLATED)[:20000]), "zip archive within"),
    # headers
    "no NIfTI": (lambda: with_map(b"not a NIfTI file" * 60), "no NIfTI file"),
    "a few bytes": (lambda: with_map(b"NIfTI"), "fewer than the 352"),
    "NIfTI-2": (_nifti2, "NIfTI-2"),
    "magic of a pair": (lambda: with_map(nifti(chi_map("Sim1"), patches=[(344, b"ni1\0")])), r"\.hdr/\.img pair"),
    "vast dimensions": (_with_axes(3, 32767, 32767, 32767), "declares 3 axes of 32767"),
    "negative dimensions": (_with_axes(3, -14, -18, 16), "declares 3 axes of -14"),
    "two axes": (_with_axes(2), "declares 2 axes of 14 x 18"),
    "one axis": (_with_axes(1), "declares 1 axes of 14"),
    "absurd number of axes": (_with_axes(30000), "declares 30000 axes"),
    "wrong shape": (lambda: with_map(nifti(chi_map("Sim1")[:, :-1])), "14 x 17 x 16 voxels, but the truth has 14 x 18 x 16"),
    "axes permuted": (lambda: with_map(nifti(chi_map("Sim1").transpose(1, 0, 2))), "18 x 14 x 16"),
    "four axes": (lambda: with_map(nifti(np.stack([chi_map("Sim1")[..., :8]] * 2, axis=-1))), "4 axes"),
    "complex": (lambda: with_map(nifti(chi_map("Sim1"), dtype=np.complex64)), "complex64"),
    "RGB": (_rgb, "RGB"),
    "unknown type": (lambda: with_map(nifti(chi_map("Sim1"), patches=[(70, struct.pack("<h", 999))])), "type 999"),
    "bits that contradict the type": (lambda: with_map(nifti(chi_map("Sim1"), patches=[(72, struct.pack("<h", 8))])), "8 bits"),
    "header extension": (_with_extension, "header extensions"),
    "values elsewhere": (lambda: with_map(nifti(chi_map("Sim1"), patches=[(108, struct.pack("<f", 5000))])), "begin at byte 5000"),
    "infinite scale": (lambda: with_map(nifti(chi_map("Sim1"), patches=[(112, struct.pack("<f", np.inf))])), "scale factor inf"),
    "values cut off": (lambda: with_map(SHORT[:-100]), "truncated or has something appended"),
    "values appended": (lambda: with_map(SHORT + b"Dr. Example"), "truncated or has something appended"),
    # values
    "NaN": (_bad_value(np.nan, np.nan, np.inf), "holds 3 NaN or infinite values, 0 of them inside the mask"),
    "beyond float32": (_bad_value(1e300), "holds 1 NaN or infinite"),
    "constant": (lambda: with_map(nifti(np.full(SHAPE, 0.1))), "constant"),
    "ppb": (lambda: with_map(nifti(1000 * chi_map("Sim1"))), "ppb"),
    "Hz": (lambda: with_map(nifti(298.04 * chi_map("Sim1"))), "Hz at 7 T"),
    "opposite sign": (lambda: with_map(nifti(-chi_map("Sim1"))), "opposite sign"),
    "far too large": (lambda: with_map(nifti(chi_map("Sim1", noise=1e5))), "times as much as the truth"),
}
"""Name -> (how to make the archive, what the reason for refusing it says)."""

HARMLESS: dict[str, Callable[[], bytes]] = {
    "stored": lambda: archive(good_members(), method=zipfile.ZIP_STORED),
    "deflated": lambda: archive(good_members()),
    "streamed": lambda: streamed_archive(good_members()),
    "gzipped": lambda: archive({f"{name}.gz": gzip.compress(content) for name, content in good_members().items()}, method=zipfile.ZIP_STORED),
    "times and owners": _with_info(extra=struct.pack("<2HBL", 0x5455, 5, 1, 10**9) + struct.pack("<2HBBHBH", 0x7875, 7, 1, 2, 0, 2, 0)),
    "big-endian": lambda: archive({SIM1: nifti(chi_map("Sim1"), order=">", dtype=">f4"), SIM2: nifti(chi_map("Sim2"))}),
    "a trailing axis of one": lambda: archive({SIM1: nifti(chi_map("Sim1")[..., None]), SIM2: nifti(chi_map("Sim2"))}),
    "other order": lambda: archive(dict(reversed(good_members().items()))),
    "a scale factor that is not a number": lambda: with_map(nifti(chi_map("Sim1"), patches=[(112, struct.pack("<f", np.nan))])),
    "descriptive text in the header": lambda: with_map(nifti(chi_map("Sim1"), patches=[(148, b"FSL 6.0")])),
}
"""Archives with the same maps that any zip program may write."""
