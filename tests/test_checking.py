import numpy as np
import pytest
import torch

from spt_lens import checking

NAN, INF = float("nan"), float("inf")


class TestNumbers:
    @pytest.mark.parametrize("value", [1, 3, np.int64(2), torch.tensor(3)])
    def test_whole_numbers_pass_as_ints(self, value):
        found = checking.whole_number(value, "n", 1, 3)
        assert type(found) is int and found == value

    @pytest.mark.parametrize("value", [0, 4, -1, 1.5, 2.0, NAN, INF, True])
    def test_other_numbers_do_not(self, value):
        with pytest.raises(ValueError, match=r"n=.*: give a whole number from 1 to 3"):
            checking.whole_number(value, "n", 1, 3)

    @pytest.mark.parametrize("value", [None, "3", [1], torch.ones(2), object()])
    def test_what_is_no_number_is_a_type_error(self, value):
        with pytest.raises(TypeError, match=r"n is .*: give a whole number from 1 up"):
            checking.whole_number(value, "n")
        with pytest.raises(TypeError, match=r"x is .*: give a finite number"):
            checking.number(value, "x")

    def test_bounds_are_in_or_out(self):
        assert checking.number(0, "x", least=0, below=1) == 0.0
        assert checking.number(np.float32(0.5), "x", above=0, most=1) == 0.5
        for value in (0, 1.1, NAN, INF, 10**400):
            with pytest.raises(ValueError, match="give a number above 0 and of at most 1"):
                checking.share(value, "x")
        with pytest.raises(ValueError, match="x=1: give a number of at least 0 and below 1"):
            checking.number(1, "x", least=0, below=1)
        with pytest.raises(TypeError):
            checking.number(True, "x")


def test_a_choice_lists_what_there_is():
    assert checking.one_of("a", "way", ("a", "b")) == "a"
    for value in ("c", None, ["a"], torch.ones(2), 3):
        with pytest.raises(ValueError, match=r"way=.*: choose one of 'a', 'b'"):
            checking.one_of(value, "way", ("a", "b"))


def test_a_type_ends_in_the_way_out():
    assert checking.instance(3, "n", int, "give a number") == 3
    with pytest.raises(TypeError, match=r"heads must be a list or tuple, and is 'L5.H3': use HeadSet.parse"):
        checking.instance("L5.H3", "heads", (list, tuple), "use HeadSet.parse")
    with pytest.raises(TypeError, match="and is a str: shorter"):
        checking.instance("x" * 100, "n", int, "shorter")


def test_a_file_must_be_there(tmp_path):
    (tmp_path / "a").write_text("")
    assert checking.existing_file(str(tmp_path / "a")) == tmp_path / "a"
    for path, error in ((tmp_path / "b", FileNotFoundError), (tmp_path, IsADirectoryError)):
        with pytest.raises(error):
            checking.existing_file(path)
    for path, error in ((None, TypeError), (3, TypeError), ("", ValueError), ("a\0b", ValueError)):
        with pytest.raises(error):
            checking.existing_file(path)
