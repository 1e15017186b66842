"""Small truths, maps and archives made of them."""

import io
import warnings
import zipfile

import nibabel as nib
import numpy as np

from qsmdl.io.nifti import write_volume

SHAPE = (14, 18, 16)
ID = "AB12CD34EF"
SIM1, SIM2 = f"{ID}_Sim1_Step1.nii", f"{ID}_Sim2_Step1.nii"


def truth_of(scan):
    """(chi in ppm, mask, labels) of a scan; Sim2 has a calcification."""
    generator = np.random.default_rng(len(scan) + int(scan[3]))
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:12, 2:16, 2:14] = 8
    for label in (1, 2, 3, 4, 5, 6, 7, 9, 11):
        labels[2 + label % 5 * 2 :, 2:16, 2:14][:2, :, label // 2 : label // 2 + 3] = label
    if scan.startswith("Sim2"):
        labels[5:7, 8:10, 7:9] = 16
    chi = (0.02 * (labels % 5) - 0.03 + 0.01 * generator.standard_normal(SHAPE)).astype(np.float32) * (labels > 0)
    chi[labels == 16] = -2.0
    return chi.astype(np.float32), labels > 0, labels


def write_truth(root, scans=("Sim1", "Sim2")):
    """A folder of truths in the layout of a release, without scans."""
    for scan in scans:
        chi, mask, labels = truth_of(scan)
        for name, volume, dtype in (("MaskBrainExtracted", mask, np.uint8), ("GT/Chi", chi, np.float32), ("GT/Segmentation", labels, np.uint8)):
            write_volume(root / scan / f"{name}.nii", volume, dtype=dtype)
    return root


def chi_map(scan, seed=0, noise=0.3):
    """A reconstruction: the truth with noise."""
    chi, mask, _ = truth_of(scan)
    return (chi + noise * chi[mask].std() * np.random.default_rng(seed).standard_normal(SHAPE) * mask).astype(np.float32)


def nifti(values, *, dtype=np.float32, order="<", patches=()):
    """The bytes of a .nii file; patches: (offset, bytes) written over it."""
    image = nib.Nifti1Image(np.asarray(values).astype(dtype), np.eye(4), nib.Nifti1Header(endianness=order))
    image.header.set_data_dtype(np.dtype(dtype).newbyteorder(order))
    data = bytearray(image.to_bytes())
    for offset, content in patches:
        data[offset : offset + len(content)] = content
    return bytes(data)


def good_members(seed=0):
    return {SIM1: nifti(chi_map("Sim1", seed)), SIM2: nifti(chi_map("Sim2", seed))}


def archive(members, *, method=zipfile.ZIP_DEFLATED, comment=b"", change=None):
    """A zip archive of (name, bytes); change: called with each ZipInfo."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that occur twice
        for name, content in members.items() if isinstance(members, dict) else members:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = method
            if change is not None:
                change(info)
            file.writestr(info, content)
        file.comment = comment
    return target.getvalue()


def streamed_archive(members):
    """As written into a pipe: sizes and CRC follow the data."""

    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def seek(self, *_):
            raise io.UnsupportedOperation

        def tell(self):
            raise io.UnsupportedOperation

    target = Pipe()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return target.getvalue()


def with_map(content, name=SIM1):
    """A sound archive but for one map."""
    members = good_members()
    del members[SIM1]
    return archive({name: content, **members})


def patched(data, marker, offset, content, *, last=False):
    """Bytes written at an offset after the first (or last) occurrence of a marker."""
    position = (data.rindex(marker) if last else data.index(marker)) + offset
    return data[:position] + content + data[position + len(content) :]
