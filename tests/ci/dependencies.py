#!/usr/bin/env python3
"""Checks what the lock files of the workspace, of fuzz and of tests/firmware bring in.

Every package has a permissive licence, none declares a newer Rust than the workspace, which
states its own in one place (fuzz and firmware, outside the workspace, have to repeat it). Exit code 1 and one
line for each package that is wrong.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
PERMISSIVE = {
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC", "MIT",
    "MIT-0", "NCSA", "Unicode-3.0", "Unlicense", "Zlib",
}


def main() -> int:
    self_check()
    stated = re.findall(r'^rust-version = "(.+)"$', (TOP / "Cargo.toml").read_text(), re.M)
    if len(stated) != 1:
        print(f"Cargo.toml states rust-version {len(stated)} times", file=sys.stderr)
        return 1
    packages = {}
    wrong = []
    for manifest in ("Cargo.toml", "fuzz/Cargo.toml", "tests/firmware/Cargo.toml"):
        metadata = cargo_metadata(manifest)
        own = set(metadata["workspace_members"])
        for package in metadata["packages"]:
            packages[package["id"]] = package
            if package["id"] in own and package["rust_version"] != stated[0]:
                wrong.append(f"{package['name']}: rust-version is not {stated[0]}")
    for package in packages.values():
        name = f"{package['name']} {package['version']}"
        if version(package["rust_version"] or "0") > version(stated[0]):
            wrong.append(f"{name}: needs Rust {package['rust_version']}, ours is {stated[0]}")
        if not is_permissive(package["license"]):
            wrong.append(f"{name}: licence {package['license']!r}")
    print(*sorted(wrong), sep="\n", file=sys.stderr)
    print(f"result: {len(packages)} packages, {len(wrong)} wrong, Rust {stated[0]}")
    return 1 if wrong else 0


def cargo_metadata(manifest: str) -> dict:
    command = ["cargo", "metadata", "--locked", "--all-features", "--format-version", "1"]
    done = subprocess.run(
        [*command, "--manifest-path", TOP / manifest], stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def version(text: str) -> tuple:
    """1.88 is 1.88.0."""
    return tuple(int(part) for part in f"{text}.0.0".split(".")[:3])


def is_permissive(licence) -> bool:
    """Whether an SPDX expression can be met with permissive licences; `/` is an old `OR`."""
    if not licence:
        return False
    terms = []
    for word in re.findall(r"[()]|[^\s()/]+|/", re.sub(r" WITH LLVM-exception", "", licence)):
        if word in "()":
            terms.append(word)
        elif word in ("OR", "/"):
            terms.append("or")
        elif word == "AND":
            terms.append("and")
        else:
            terms.append(str(word in PERMISSIVE))
    return eval(" ".join(terms), {"__builtins__": {}})  # only the words above


def self_check() -> None:
    assert is_permissive("MIT OR GPL-3.0") and is_permissive("(MIT OR Apache-2.0) AND Unicode-3.0")
    assert is_permissive("MIT/Apache-2.0") and is_permissive("Apache-2.0 WITH LLVM-exception")
    assert not is_permissive("GPL-3.0") and not is_permissive("MIT AND GPL-3.0")
    assert not is_permissive(None)
    assert version("1.88") < version("1.88.1") < version("1.100")


if __name__ == "__main__":
    sys.exit(main())
