"""What settings say about files."""

from tdabench.storage.files import hash_file, hash_named_files


def test_files_that_settings_name_are_hashed_and_other_texts_are_not(tmp_path):
    (tmp_path / "letters").mkdir()
    for name in ("story.txt", "other.txt", "letters/tokenizer.json", "letters/weights.bin"):
        (tmp_path / name).write_text(f"This is {name}.")
    settings = {
        "files": ("story.txt", "absent.txt"),
        "tokenizer": "letters",
        "separator": "x" * 5000,
        "field": "\0",
        "dataset": ".",
        "length": 64,
        "test_files": None,
    }

    found = hash_named_files(settings, tmp_path)

    assert found == {name: hash_file(tmp_path / name) for name in ("story.txt", "letters/tokenizer.json")}
    # Without the data, what was known is kept; not of what is no longer named.
    known = {**found, "absent.txt": "1", "former.txt": "2"}
    assert hash_named_files(settings, tmp_path / "nowhere", known) == {**found, "absent.txt": "1"}
    assert hash_named_files(settings, tmp_path, {**known, "story.txt": "3"}) == {**found, "absent.txt": "1"}
