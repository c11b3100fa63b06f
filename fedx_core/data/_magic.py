"""What bytes are, by how they begin: so that an error can say what was found."""

_BEGINNINGS = (
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"II+\0", "a TIFF image"),
    (b"MM\0+", "a TIFF image"),
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"%!PS", "a PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (b"%PDF", "a PDF file"),
    (b"PK\3\4", "a zip"),
    (b"PK\5\6", "a zip"),
    (b"\x1f\x8b", "a file packed with gzip (such as a .tar.gz)"),
    (b"BZh", "a file packed with bzip2 (such as a .tar.bz2)"),
    (b"\xfd7zXZ\0", "a file packed with xz (such as a .tar.xz)"),
    (b"\x28\xb5\x2f\xfd", "a file packed with zstandard (such as a .tar.zst)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"CDF", "a NetCDF file"),
    (b"PAR1", "a Parquet file"),
    (b"\x80", "a Python pickle"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself (run git lfs pull)"),
)


def kind(head: bytes) -> str:
    """Say what a file is, by its first 512 bytes or more; empty if that is not known."""
    if not head:
        return "an empty file"
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "a WebP image"
    text = head[:64].lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if text.startswith((b"<vrtdataset", b"<svg", b"<?xml")):
        return "an XML file"
    return next((said for start, said in _BEGINNINGS if head.startswith(start)), "")
