"""The pages of the documentation: lines that fit, and files, modules and commands that are there."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from cfgen_dist.cli import COMMANDS, Parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(page for page in (ROOT / "docs").glob("*.md") if not page.is_symlink())])


def pages(*without):
    return [pytest.param(page, id=page.name) for page in PAGES if page.name not in without]


def prose(page):
    """Numbered lines outside of code and tables."""
    fenced = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith("|"):
            yield number, line


def code(page):
    """What stands in backquotes outside of code blocks, tables included."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("page", pages())
def test_lines_of_prose_have_at_most_120_characters(page):
    long = [f"line {number}: {len(line)}" for number, line in prose(page) if len(line) > 120]
    assert not long


@pytest.mark.parametrize("page", pages("CHANGELOG.md"))
def test_files_and_modules_that_are_named_exist(page):
    missing = []
    for text in code(page):
        if "NAME" in text:
            continue
        if re.fullmatch(r"(cfgen_dist|data_loaders|benchmarks|docs|jobs|tests|deploy)/[\w./-]*", text):
            missing += [] if (ROOT / text).exists() else [text]
        elif re.fullmatch(r"(cfgen_dist|data_loaders)(\.\w+)+", text) and not named(text):
            missing.append(text)
    assert not missing


def named(path):
    """Whether a dotted path is a module, or a name of one."""
    try:
        importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return hasattr(importlib.import_module(module), name)
    return True


@pytest.mark.parametrize("page", pages())
def test_links_within_the_repository_lead_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in link]
    files = [page.parent / link.partition("#")[0] for link in links if not link.startswith("#")]
    assert not [str(file) for file in files if not file.exists()]


@pytest.mark.parametrize("page", pages("CONTRIBUTING.md"))
def test_commands_are_those_of_the_program(page):
    for block in re.findall(r"^```\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for name in re.findall(r"^cfgen-dist (\S+)", block, re.MULTILINE):
            assert name in COMMANDS


@pytest.mark.parametrize("page", pages())
def test_scripts_that_are_run_exist(page):
    for line in re.findall(r"\bpython (?:benchmarks|jobs)/[\w./-]+", page.read_text()):
        assert (ROOT / shlex.split(line)[1]).is_file()


@pytest.mark.parametrize("page", pages("CONTRIBUTING.md", "CHANGELOG.md"))
def test_names_that_python_examples_import_are_there(page):
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for module, names in re.findall(r"^from ((?:cfgen_dist|data_loaders)[\w.]*) import (.+)$", block, re.MULTILINE):
            for name in names.split(","):
                assert hasattr(importlib.import_module(module), name.strip()), f"{module} has no {name}"


@pytest.mark.parametrize("name", ["atlases.md", "cluster.md"])
def test_commands_of_the_tutorials_parse(name):
    """Every option of every command is one, whole lines as they would be typed."""
    found = 0
    for block in re.findall(r"^```\w*\n(.*?)^```$", (ROOT / "docs" / name).read_text(), re.MULTILINE | re.DOTALL):
        for line in re.sub(r"\s*\\\n\s*", " ", block).splitlines():
            if line.startswith("cfgen-dist "):
                words = shlex.split(re.sub(r"\s{2,}.*", "", line), comments=True)
                parser = Parser(prog=words[1], allow_abbrev=False)
                importlib.import_module(f"cfgen_dist.cli.{words[1]}").configure(parser)
                _, unknown = parser.parse_known_intermixed_args(words[2:])
                assert not unknown, line
                found += 1
    assert found >= 3
