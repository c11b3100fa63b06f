"""A site's letters and its next inbox, on disk and for its own eyes."""

from pathlib import Path

import pytest

from fedx_core.base.errors import SiteError
from fedx_core.sites import keys
from fedx_core.sites.grants import Grant
from flows.sites.post import FILE, Post

NORTH = keys.make("north")


def inbox(number: int) -> Grant:
    url = "https://store.example/?X-Amz-a=b"
    return Grant("get", f"inbox/north/{number}", 9, url, {}, 1e9 + number)


def test_letters_wait_until_they_are_answered_and_a_new_one_takes_an_old_ones_place(
    tmp_path: Path,
) -> None:
    post = Post(tmp_path, NORTH)
    assert (post.inbox, post.letters) == (None, {})
    post.invited(inbox(1))
    post.arrived("one", b"first", inbox(2))
    post.arrived("two", b"of two", inbox(3))
    post.arrived("one", b"second", None)
    again = Post(tmp_path, NORTH)  # as after a kill
    assert again.inbox == inbox(3)
    assert again.letters == {"one": b"second", "two": b"of two"}
    again.answered("one", b"first")  # it was replaced meanwhile
    again.answered("two", b"of two")
    assert Post(tmp_path, NORTH).letters == {"one": b"second"}


def test_neither_an_old_invitation_nor_an_old_letter_leads_back(tmp_path: Path) -> None:
    post = Post(tmp_path, NORTH)
    post.invited(inbox(1))
    post.arrived("one", b"first", inbox(2))
    post.arrived("one", b"second", inbox(3))
    post.invited(inbox(1))
    post.arrived("one", b"first", inbox(2), follow=False)
    assert post.inbox == inbox(3)
    post.arrived("one", b"fourth", inbox(5), follow=False)
    assert post.inbox == inbox(5)
    post.invited(inbox(9))
    assert post.inbox == inbox(9)
    # Once it looks somewhere, it follows what lies there, even if a clock was set back meanwhile.
    post.arrived("one", b"tenth", inbox(4))
    assert post.inbox == inbox(4)


def test_whoever_copies_the_file_has_nothing(tmp_path: Path) -> None:
    Post(tmp_path, NORTH).arrived("run", b"letter", inbox(1))
    data = (tmp_path / FILE).read_bytes()
    assert b"X-Amz" not in data
    assert b"store.example" not in data
    with pytest.raises(SiteError, match=r"damaged or of other keys.*wakes or invites"):
        _ = Post(tmp_path, keys.make("south")).letters
    (tmp_path / FILE).write_bytes(data[:-1])
    with pytest.raises(SiteError, match="delete it"):
        _ = Post(tmp_path, NORTH).inbox
