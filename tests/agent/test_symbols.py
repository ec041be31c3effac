import numpy as np

from services.agent.meaning import Meanings, Table, table
from services.agent.repo import candidates, weights
from services.agent.symbols import SEEN, SymbolIndex, piece, touched
from tests.agent.twin import repository

CODE = {
    "store/disk.py": "def make_dir(path):\n    os.mkdir(path)\n\n\ndef rank(rows):\n    return sorted(rows)\n",
    "net/http.py": "class Header:\n    pass\n\n\ndef read_header(line):\n    return Header(line.split())\n",
}


def seen(question):
    view = repository(CODE)
    names = [symbol.name for symbol in view.symbols]
    rows = SymbolIndex(view).seen(question)
    assert rows.shape == (len(names), len(SEEN))
    return {name: dict(zip(SEEN, row, strict=True)) for name, row in zip(names, rows, strict=True)}


def test_each_field_counts_by_itself():
    rows = seen("read a line of http")
    assert rows["read_header"]["name"] > 0 and rows["rank"]["name"] == 0
    assert rows["read_header"]["path"] > 0 and rows["rank"]["path"] == 0
    assert rows["read_header"]["share of the name"] < 1
    assert rows["read_header"]["share of the question"] > rows["rank"]["share of the question"] == 0


def test_pieces_of_words():
    assert piece("dir", "directory") and piece("walkdirs", "dirs") and piece("rank", "revrank")
    assert not piece("at", "that") and not piece("row", "narrow")
    rows = seen("creates a directory")
    assert rows["make_dir"]["name's pieces"] > 0 == rows["make_dir"]["name"]


def test_nothing_in_common():
    view = repository(CODE)
    assert not touched(SymbolIndex(view).seen("zebra")).any()
    assert candidates([view], "zebra") == [] == candidates([repository({})], "zebra")


def test_shares_are_of_all_sources_together():
    one, two = repository(CODE), repository({"a.py": "def rank_rows(rows):\n    return rows\n"}, "rep_b")
    found = candidates([one, two], "rank the rows", 20)
    assert {c.view.id for c in found} == {"rep_a", "rep_b"}
    assert 0.999 < sum(c.score for c in found) < 1.001
    assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)


def test_empty_lines_tell_nothing():
    gaps = {"a.py": "def rank(rows):\n\n\n\n    return sorted(rows)\n"}
    dense = {"a.py": "def rank(rows):\n    return sorted(rows)\n"}
    rows = [SymbolIndex(repository(code)).seen("sorts rows") for code in (gaps, dense)]
    assert np.array_equal(*rows)


def test_the_table_comes_back_from_its_file(tmp_path):
    rng = np.random.default_rng(0)
    asked, code = rng.normal(size=(2, 7, 16)).astype(np.float32)
    made = Table({f"w{n}": n for n in range(7)}, asked, code, np.ones(5, np.float32))
    made.save(tmp_path / "words.npz")
    back = Table.load(tmp_path / "words.npz")
    assert back.number == made.number
    assert np.abs(back.asked - asked).max() < 0.02 and np.abs(back.code - code).max() < 0.02


def test_unknown_words_have_no_direction():
    meanings = Meanings(table(), [[["xyzzyx"], [], [], [], []], [["sort"], [], [], [], ["list"]]])
    assert not meanings.near(["qwrtzp"]).any()
    near = meanings.near(["sort"])
    assert near[0] == 0 and near[1] > 0.3


def test_a_weight_for_everything_that_is_seen():
    assert weights().shape == (len(SEEN),) and np.isfinite(weights()).all() and weights()[SEEN.index("meaning")] > 0
