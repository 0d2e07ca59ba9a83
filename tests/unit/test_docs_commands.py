"""Every command that the pages show is known to work, or says why no test can know; those that need nothing are run."""

import re
import subprocess
from pathlib import Path

import pytest
from pages import DOCS, ROOT, SCRIPTS, Block, blocks, documented_blocks, every_page, unnamed, workplace

BLOCKS = documented_blocks()
NEEDS = {"gpu", "cluster", "docker", "network", "k6"}
RUNS = {"alone", "service"}
SHELLS_OWN = {"printf", "echo", "export", "cd"}
FOLDERS = {"benchmarks", "configs", "deploy", "docs", "tests", "voices"}


def named(chosen):
    return [pytest.param(block, id=block.name) for block in chosen]


def of(*words):
    return named(block for block in BLOCKS if block.mark and block.mark[0] in words)


def program(command):
    """What is run: a script by its file's name, anything else by its own."""
    first = Path(command[0]).name
    return Path(command[1]).name if first == "python" and not command[1].startswith("-") else first


def sources(command):
    """The files in which a command's options have to stand; none for what is not this project's."""
    name = Path(command[0]).name
    if name in SCRIPTS:
        return [ROOT / SCRIPTS[name].partition(":")[0].replace(".", "/")]
    return [ROOT / command[1]] if name == "python" and command[1].endswith(".py") else []


@pytest.mark.parametrize("block", named(BLOCKS))
def test_a_block_says_how_it_is_known_to_work(block):
    assert block.mark, f"{block.name} has no mark; docs/development.md has the list"
    word, value = block.mark
    if word == "needs":
        assert value in NEEDS, block.name
    if word == "runs":
        assert value in RUNS, block.name


@pytest.mark.parametrize("block", of("tested"))
def test_a_test_that_is_named_has_the_commands(block):
    path = ROOT / block.mark[1]
    assert path.parts[len(ROOT.parts)] == "tests", block.name
    text = path.read_text()
    for command in block.commands():
        name = program(command)
        module = SCRIPTS.get(name, "").partition(":")[0].removesuffix(".__main__")
        known = name in SHELLS_OWN or name in text or (module and module in text)
        assert known, f"{block.name}: {path.name} does not run {name}"


@pytest.mark.parametrize("block", named(BLOCKS))
def test_what_a_command_names_exists(block):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in block.commands():
        for word in command:
            if Path(word).parts[:1] and Path(word).parts[0] in FOLDERS:
                assert (ROOT / word).exists(), f"{block.name}: {word}"
        if command[0] == "make":
            assert {word for word in command[1:] if "=" not in word} <= targets, block.name
        for source in sources(command):
            text = source.with_suffix(".py").read_text()
            if "add_options(" in text:  # the options that every client has
                text += (ROOT / "serve_app/cli/address.py").read_text()
            for option in [word.partition("=")[0] for word in command if word.startswith("--")]:
                assert f'"{option}"' in text, f"{block.name}: {source.stem} has no {option}"


@pytest.mark.parametrize("page", [*every_page()], ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_stand_in_a_block_of_shell(page):
    assert unnamed(page) == []


@pytest.mark.parametrize(
    "block", named(block for block in BLOCKS if block.mark == ("runs", "alone")), ids=lambda block: block.name
)
def test_commands_that_need_nothing_run(block, tmp_path):
    done = subprocess.run(
        ["sh", "-e", "-c", block.text],
        cwd=tmp_path,
        env=workplace(tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_every_command_of_the_project_has_a_help(tmp_path):
    environment = workplace(tmp_path)
    for name in SCRIPTS:
        helped = subprocess.run([name, "--help"], env=environment, capture_output=True, text=True, check=False)
        assert helped.returncode == 0, helped.stderr
        assert name in helped.stdout


def test_a_block_is_read_as_a_shell_reads_it(tmp_path):
    page = tmp_path / "page.md"
    lines = [
        'A=1 curl -d \'{"a":',
        " 1}' \\",
        "  http://x | ffplay -  # heard",
        "# nothing",
        "tts-keys me >> keys.yaml && .venv/bin/tts-say 'a > b'",
    ]
    page.write_text("\n".join(["<!-- needs: gpu -->", "", "```sh", *lines, "```", "", "```bash", "x", "```", ""]))
    first, second = blocks(page)
    assert (first.mark, first.line, second.mark) == (("needs", "gpu"), 3, None)
    assert first.commands() == [
        ["curl", "-d", '{"a":\n 1}', "http://x"],
        ["ffplay", "-"],
        ["tts-keys", "me"],
        [".venv/bin/tts-say", "a > b"],
    ]


def test_wrong_blocks_are_found():
    page = DOCS / "page.md"
    unknown = Block(page, 1, "python benchmarks/codec.py --no-such-option 3\n", ("needs", "gpu"))
    for text, mark in (
        (unknown.text, unknown.mark),
        ("make nothing\n", ("needs", "gpu")),
        ("serve run configs/nothing.yaml\n", ("needs", "gpu")),
    ):
        with pytest.raises(AssertionError):
            test_what_a_command_names_exists(Block(page, 1, text, mark))
    with pytest.raises(AssertionError):
        test_a_block_says_how_it_is_known_to_work(Block(page, 1, "true\n", None))
    with pytest.raises(AssertionError):
        test_a_block_says_how_it_is_known_to_work(Block(page, 1, "true\n", ("needs", "time")))
    with pytest.raises(AssertionError):
        test_a_test_that_is_named_has_the_commands(Block(page, 1, "tts-keys me\n", ("tested", "tests/conftest.py")))


def test_commands_without_a_block_of_shell_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n\n    make run\n\n```\nclient → server\n```\n\n```\n$ ls\n```\n\n```text\nmake run\n```\n")
    assert unnamed(page) == [3, 9]
