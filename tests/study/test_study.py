# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The blind comparison without its page: pairs, orders, votes on disk and what they add up to."""

import json
import resource
from concurrent.futures import ThreadPoolExecutor

import pytest
from comparisons import make_folders

from disback_diffusers.errors import RunError, UsageError
from disback_diffusers.study.pairs import Pair, questions, subset
from disback_diffusers.study.study import Study
from disback_diffusers.study.votes import Z, clean_name, report, tally, votes_file, wilson


@pytest.fixture
def folder(tmp_path):
    make_folders(tmp_path)
    return tmp_path


def new_study(folder, prompts=None, **more):
    return Study(folder / "A", folder / "B", prompts or list("abcdef"), folder / "out", **more)


def opened(folder, **more):
    study = new_study(folder, **more)
    study.open()
    return study


def lines(folder, rater="ann"):
    return [json.loads(line) for line in votes_file(folder / "out", rater).read_text().splitlines()]


# ---------------------------------------------------------------------------------------------------------------------
# Pairs and orders


PAIRS = [Pair(f"{i:06d}.png", f"prompt {i}", None, None) for i in range(50)]


def test_each_rater_has_an_order_and_sides_of_their_own():
    ann, bob = (questions(PAIRS, 0, rater) for rater in ("ann", "bob"))
    assert ann == questions(PAIRS, 0, "ann")
    assert ann != questions(PAIRS, 1, "ann")
    orders = [[question.pair.name for question in asked] for asked in (ann, bob)]
    assert sorted(orders[0]) == sorted(orders[1]) == [pair.name for pair in PAIRS]
    assert orders[0] != orders[1]
    sides = [{question.pair.name: question.a_left for question in asked} for asked in (ann, bob)]
    assert sides[0] != sides[1]


def test_a_is_on_the_left_in_half_of_the_pairs():
    for rater in "abcdef":
        asked = questions(PAIRS, 0, rater)
        assert sum(question.a_left for question in asked) == 25
        assert 0 < sum(question.a_left for question in asked[:25]) < 25


def test_an_order_is_the_same_in_every_version_of_python():
    found = [(int(question.pair.name[:6]), question.a_left) for question in questions(PAIRS[:6], 7, "ann")]
    assert found == [(1, False), (3, False), (0, True), (5, True), (2, True), (4, False)]


def test_a_subset_is_the_same_for_all_raters_and_keeps_the_order():
    chosen = subset(PAIRS, 10, seed=0)
    assert len(chosen) == 10 and chosen == subset(PAIRS, 10, seed=0) == sorted(chosen, key=lambda pair: pair.name)
    assert chosen != subset(PAIRS, 10, seed=1) and chosen != PAIRS[:10]
    assert subset(PAIRS, 50, seed=3) == PAIRS


def test_pairs_are_found_by_file_name(folder):
    (folder / "A" / "notes.txt").write_text("no image")
    (folder / "A" / "._000000.png").write_text("no image either")
    pairs = new_study(folder).pairs
    assert [(pair.name, pair.prompt) for pair in pairs] == [(f"{i:06d}.png", "abcdef"[i]) for i in range(6)]
    assert all(pair.a == folder / "A" / pair.name for pair in pairs)
    assert all(pair.b == folder / "B" / "images" / pair.name for pair in pairs)


# ---------------------------------------------------------------------------------------------------------------------
# Votes on disk


def vote_on_next(study, choice="left", rater="ann"):
    position, question = study.next(rater)
    assert study.vote(rater, position, choice, 1.234)
    return question


def test_a_vote_is_on_disk_when_it_is_cast(folder):
    study = opened(folder)
    for n, choice in enumerate(("left", "right", "tie"), 1):
        question = vote_on_next(study, choice)
        assert len(lines(folder)) == n
        side = "left" if question.a_left else "right"
        expected = {"rater": "ann", "pair": question.pair.name, "a_side": side, "choice": choice, "seconds": 1.23}
        assert {key: value for key, value in lines(folder)[-1].items() if key != "time"} == expected
        assert question.images[side == "right"] == question.pair.a


def test_another_process_continues_where_the_rater_was(folder):
    study = opened(folder)
    judged = [vote_on_next(study).pair.name for _ in range(2)]
    del study  # and its lock
    study = opened(folder)
    judged += [vote_on_next(study).pair.name for _ in range(4)]
    assert study.next("ann") is None
    assert judged == [question.pair.name for question in questions(study.pairs, 0, "ann")]
    assert study.next("bob")[0] == 0


@pytest.mark.parametrize("rest", [b'{"rater": "ann", "pair": "0000', b'{"rater": "ann"}', b"\0\0\0"])
def test_half_a_line_is_passed_over_and_repaired(folder, rest):
    study = opened(folder)
    vote_on_next(study)
    with open(votes_file(folder / "out", "ann"), "ab") as file:
        file.write(rest)
    assert report(study).splitlines()[-3].split()[:2] == ["all", "1"]
    del study
    vote_on_next(opened(folder))
    assert len(lines(folder)) == 2


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "7",
        "{}",
        "\0",
        '{"rater": "ann", "pair": "000000.png", "a_side": "left"}',
        '{"rater": "ann", "pair": "000000.png", "a_side": "left", "choice": "up"}',
    ],
)
def test_a_whole_line_that_is_no_vote_is_named(folder, line):
    study = opened(folder)
    vote_on_next(study)
    with open(votes_file(folder / "out", "ann"), "a") as file:
        file.write(line + "\n")
    for action in (lambda: new_study(folder).next("ann"), lambda: report(study)):
        with pytest.raises(UsageError, match=r"votes-ann.jsonl: line 2 is no vote"):
            action()


def test_the_first_vote_on_a_pair_counts(folder):
    study = opened(folder)
    position, _ = study.next("ann")
    assert study.vote("ann", position, "left", 1)
    assert not study.vote("ann", position, "right", 1)
    assert [vote["choice"] for vote in lines(folder)] == ["left"]
    assert study.vote("bob", position, "right", 1)


def test_votes_cast_at_once(folder):
    study = opened(folder)
    with ThreadPoolExecutor(8) as pool:
        counted = list(pool.map(lambda i: study.vote("ann", i % 6, "left", 1), range(48)))
    assert sum(counted) == 6
    assert sorted(vote["pair"] for vote in lines(folder)) == [pair.name for pair in study.pairs]


def test_a_vote_that_does_not_fit_on_the_disk_is_not_counted(folder):
    study = opened(folder)
    question = vote_on_next(study)
    size, (soft, hard) = votes_file(folder / "out", "ann").stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    position, question = study.next("ann")
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
    try:
        with pytest.raises(RunError, match="could not be saved"):
            study.vote("ann", position, "left", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(lines(folder)) == 1
    assert study.next("ann") == (position, question)
    vote_on_next(study)
    assert len(lines(folder)) == 2


def test_an_unknown_choice_is_no_vote(folder):
    study = opened(folder)
    with pytest.raises(UsageError, match="not 'up'"):
        study.vote("ann", 0, "up", 1)
    assert study.next("ann")[0] == 0


def test_no_two_raters_share_a_file(tmp_path):
    names = [
        "ann",
        "Ann",
        "ANN",
        "an n",
        "an_n",
        "an-n",
        "an.n",
        "../ann",
        "/ann",
        "änn",
        "a" * 40,
        "a" * 41,
        "a" * 80,
    ]
    names += [votes_file(tmp_path, name).name[6:-6] for name in names]  # what could be mistaken for another's
    names = list(dict.fromkeys(names))
    files = [votes_file(tmp_path, clean_name(name)) for name in names]
    assert all(file.parent == tmp_path and len(file.name) < 100 for file in files)
    assert len({file.name.lower() for file in files}) == len(names)


def test_a_name_has_one_spelling(folder):
    assert clean_name("  Ann \t B ") == "Ann B"
    assert clean_name("a\u0308") == clean_name("\u00e4")
    for name in ("", "  ", "a\x1b[2J", "a" * 81):
        with pytest.raises(UsageError, match="1 to 80 printable"):
            clean_name(name)
    study = opened(folder)
    vote_on_next(study, rater="Ann  B")
    assert study.next("Ann B ")[0] == 1


# ---------------------------------------------------------------------------------------------------------------------
# Whose folder it is


def test_another_comparison_in_the_folder_is_refused(folder):
    opened(folder, num_pairs=4, seed=3)
    with pytest.raises(UsageError, match="holds another comparison") as caught:
        new_study(folder, seed=4)
    assert str(folder / "A") in str(caught.value) and "--num_pairs 4 --seed 3" in str(caught.value)
    for change in ({"num_pairs": 5}, {"prompts": list("ghijkl")}):
        with pytest.raises(UsageError, match="holds another comparison"):
            new_study(folder, **change)
    with pytest.raises(UsageError, match="holds another comparison"):
        Study(folder / "B", folder / "A", list("abcdef"), folder / "out")
    for file in (folder / "A").iterdir():
        file.write_bytes((folder / "B" / "images" / file.name).read_bytes())
    with pytest.raises(UsageError, match="holds another comparison"):
        new_study(folder)


def test_the_prompts_of_a_comparison_are_asked_for(folder):
    both = folder / "A", folder / "B"
    Study(*both, list("abcdef"), folder / "out", source="p.txt").open()
    with pytest.raises(UsageError, match="out holds a comparison with --prompts p.txt: add that"):
        Study(*both, None, folder / "out")


def test_the_folder_remembers_number_and_seed(folder):
    first = opened(folder, num_pairs=4, seed=3)
    again = new_study(folder)
    assert (again.pairs, again.seed, again.settings) == (first.pairs, 3, first.settings)


def test_a_folder_has_one_server(folder):
    study = opened(folder)
    with pytest.raises(UsageError, match="in use by another server"):
        new_study(folder).open()
    del study
    new_study(folder).open()


def test_settings_of_something_else(folder):
    (folder / "out").mkdir()
    (folder / "out" / "settings.json").write_text("[1]")
    with pytest.raises(UsageError, match="settings.json is not that of a comparison"):
        new_study(folder)


# ---------------------------------------------------------------------------------------------------------------------
# What they add up to


@pytest.mark.parametrize("n", [1, 10, 1000])
def test_the_interval_where_it_has_a_simple_form(n):
    assert Z == pytest.approx(1.959964, abs=1e-6)
    assert wilson(0, n) == pytest.approx((0, Z**2 / (n + Z**2)))
    assert wilson(n, n) == pytest.approx((n / (n + Z**2), 1))
    assert wilson(n / 2, n) == pytest.approx((0.5 - Z / 2 / (n + Z**2) ** 0.5, 0.5 + Z / 2 / (n + Z**2) ** 0.5))


def test_the_interval_of_a_known_case():
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)  # Newcombe 1998, table I


def test_who_won():
    votes = [("left", "left"), ("right", "right"), ("left", "right"), ("right", "tie"), ("left", "right")]
    assert tally({"a_side": side, "choice": choice} for side, choice in votes) == {"A": 2, "B": 2, "tie": 1}
    assert tally([]) == {"A": 0, "B": 0, "tie": 0}


def test_the_report(folder):
    study = opened(folder)
    assert report(study).splitlines()[-3].split() == ["all", "0", "0", "0", "0", "-", "-"]
    for rater, wins in (("bob", "AABT"), ("Ann B", "BBBBBT")):
        for winner in wins:
            position, question = study.next(rater)
            choice = "tie" if winner == "T" else "left" if question.a_left == (winner == "A") else "right"
            study.vote(rater, position, choice, 1)
    table = [line.split("  ") for line in report(study).splitlines()]
    table = [[cell.strip() for cell in row if cell.strip()] for row in table]
    assert table[:3] == [[f"A: {folder / 'A'}"], [f"B: {folder / 'B'}"], ["6 pairs"]]
    shares = ["{:.1%} to {:.1%}".format(*wilson(*numbers)) for numbers in ((5.5, 6), (1.5, 4), (7, 10))]
    assert table[4:8] == [
        ["rater", "votes", "A wins", "B wins", "ties", "B over A", "95 % interval"],
        ["Ann B", "6", "0", "5", "1", "91.7%", shares[0]],
        ["bob", "4", "2", "1", "1", "37.5%", shares[1]],
        ["all", "10", "2", "6", "2", "70.0%", shares[2]],
    ]


def test_votes_of_another_comparison_are_not_counted(folder):
    study = opened(folder)
    vote_on_next(study)
    file = votes_file(folder / "out", "ann")
    file.write_text(file.read_text().replace('"0000', '"9999'))
    with pytest.raises(UsageError, match="votes-ann.jsonl holds votes of another comparison"):
        report(study)
