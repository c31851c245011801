"""The checkout itself: small enough to clone, its clips unchanged, its documents pointing at things that exist."""

import csv
import hashlib
import re
import subprocess

import pytest

MEDIA = (".mp4", ".ogg", ".flac", ".csv")


def tracked(repository, *patterns: str) -> list[str]:
    command = ["git", "ls-files", "--", *patterns]
    return subprocess.run(command, cwd=repository, check=True, capture_output=True, text=True).stdout.splitlines()


def test_working_tree_stays_small(repository):
    sizes = {name: (repository / name).stat().st_size for name in tracked(repository) if (repository / name).is_file()}
    assert sum(sizes.values()) < 60e6
    checkpoints = {name: size for name, size in sizes.items() if name.endswith(".safetensors")}
    assert all(size <= 15e6 for size in checkpoints.values()), checkpoints


@pytest.mark.parametrize("folder", ["grid_s1", "clips", "esc10", "fsdd", "drone_cc0"])
def test_shipped_clips_are_the_listed_ones_unchanged(repository, folder):
    root = repository / "data" / folder
    listed = dict(reversed(line.split()) for line in (root / "SHA256SUMS").read_text().splitlines())
    present = {str(path.relative_to(root)) for path in root.rglob("*") if path.suffix in MEDIA}
    assert present == set(listed)
    for name, expected in listed.items():
        assert hashlib.sha256((root / name).read_bytes()).hexdigest() == expected, name


def test_no_sentence_of_val_or_test_is_in_train(grid_root):
    with open(grid_root / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    train = {row["sentence"] for row in rows if row["split"] == "train"}
    assert [row["split"] for row in rows].count("train") == 720
    assert not [row["id"] for row in rows if row["split"] != "train" and row["sentence"] in train]


def test_every_link_in_the_documents_leads_somewhere(repository):
    for name in tracked(repository, "*.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", (repository / name).read_text()):
            assert ((repository / name).parent / target).exists(), f"{name} -> {target}"
