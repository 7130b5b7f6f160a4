"""The rooms of the package: all have a floor and a purpose, and none imports one above it."""

import pytest

import rooms


@pytest.mark.parametrize("room", list(rooms.rooms()))
def test_a_room_has_a_floor_and_says_what_it_is_for(room):
    assert room in rooms.FLOOR, f"tools/rooms.py has no floor for {room}"
    assert 10 < len(rooms.purpose(room)) < 160


def test_no_room_imports_one_above_it():
    assert rooms.against_the_order() == []
