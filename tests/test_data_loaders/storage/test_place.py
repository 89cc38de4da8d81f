"""The same verbs on a disk and in a bucket."""

import pytest

from data_loaders import BadInput
from data_loaders.storage import Place, is_remote, local_copy, place


@pytest.fixture(params=["disk", "bucket"])
def root(request, tmp_path):
    """A folder on a disk, or a prefix."""
    if request.param == "disk":
        return place(tmp_path / "root")
    return place(request.getfixturevalue("bucket").url) / "prefix"


def test_files_are_written_read_listed_and_removed(root):
    file = root / "a b" / "ü%20?x#y.txt"
    assert isinstance(file, Place)
    assert not file.exists()
    assert (root / "a b").names() == root.names() == root.files() == []
    assert file.read_versioned() is None
    with pytest.raises(FileNotFoundError):
        file.read()
    with pytest.raises(FileNotFoundError):
        file.size()
    file.write(b"one")
    (root / "a b" / "deep" / "er").write(b"")
    assert (file.read(), file.size(), file.name) == (b"one", 3, "ü%20?x#y.txt")
    assert file.is_file()
    assert not file.is_folder()
    assert (root / "a b").is_folder()
    assert not (root / "a b").is_file()
    assert not (root / "a").exists()  # the beginning of a name is no folder
    assert root.files() == ["a b/deep/er", "a b/ü%20?x#y.txt"]
    assert root.sizes() == {"a b/deep/er": 0, "a b/ü%20?x#y.txt": 3}
    assert root.names() == ["a b"]
    assert (root / "a b").names() == ["deep", "ü%20?x#y.txt"]
    assert file.beside("other") == root / "a b" / "other"
    assert place(str(file)) == file
    file.remove()
    file.remove()
    assert not file.exists()
    (root / "a b").remove_tree()
    (root / "a b").remove_tree()
    assert root.files() == []


def test_conditional_puts_let_one_win(root):
    file = root / "lock"
    assert file.write_new(b"same")
    assert not file.write_new(b"same")
    version = file.read_versioned().version
    assert file.replace(b"two", version)
    assert not file.replace(b"three", version)
    assert file.read() == b"two"
    assert not (root / "none").replace(b"x", version)
    assert not (root / "none").exists()


def test_folders_go_up_and_down(root, tmp_path):
    folder = tmp_path / "made"
    (folder / "c").mkdir(parents=True)
    big = bytes(range(256)) * 80_000  # several parts
    for name, content in (("zarr.json", b"{}"), ("c/0", big), ("c/1", b"")):
        (folder / name).write_bytes(content)
    (root / "store").upload(folder)
    assert (root / "store").files() == ["c/0", "c/1", "zarr.json"]
    copied = (root / "store").download(tmp_path / "copy")
    assert (copied / "c" / "0").read_bytes() == big
    (root / "big").upload(folder / "c" / "0")
    assert (root / "big").download(tmp_path / "big.copy").read_bytes() == big
    for name in ("big", "store"):
        with pytest.raises(BadInput, match="exists already"):
            (root / name).upload(folder / "c" / "1", new=True)
    with pytest.raises(FileNotFoundError):
        (root / "none").download(tmp_path / "none")


def test_a_local_copy_goes_away(root):
    (root / "x.txt").write(b"text")
    with local_copy(str(root / "x.txt")) as path:
        assert path.read_bytes() == b"text"
        assert path.name == "x.txt"
    assert path.exists() != is_remote(str(root))


def test_zarr_arrays(root):
    import zarr

    array = zarr.create_array((root / "a.zarr").zarr_store(read_only=False), shape=(5,), dtype="i4", chunks=(2,))
    array[:] = range(5)
    found = zarr.open_array((root / "a.zarr").zarr_store(), mode="r")
    assert list(found[:]) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"read.only"):
        found[0] = 1


def test_what_addresses_must_be(bucket):
    for address, message in (
        ("s3://", "expected the name of a bucket"),
        ("s3://b/a//c", "no empty step"),
        ("s3://b/../c", "no empty step"),
    ):
        with pytest.raises(BadInput, match=message):
            place(address)
    with pytest.raises(BadInput, match="a whole bucket is not removed"):
        place(bucket.url).remove_tree()
    with pytest.raises(BadInput, match="the web is only read"):
        place("http://127.0.0.1:9/a").write(b"")


def test_a_missing_bucket_is_one_line(bucket):
    nobody = place("s3://nobody-there/a")
    for act in (lambda: nobody.write(b""), lambda: nobody.write_new(b""), nobody.names, nobody.files):
        with pytest.raises(BadInput, match=r"s3://nobody-there/a: .*there is no such bucket"):
            act()
    assert not nobody.is_file()
