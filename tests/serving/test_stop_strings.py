from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from reformer_export.serving.stop_strings import StopStrings

TEXTS = st.text("ab", max_size=12)


@given(st.lists(TEXTS, max_size=8), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
@example(["a", "ab"], ["aab"])
def test_it_is_the_whole_text_up_to_the_first_stop_string(pieces: list[str], strings: list[str]) -> None:
    """Whatever pieces it comes in; and what is passed on is never more than what is decided."""
    stops, whole, passed = StopStrings(strings), "", ""
    for piece in pieces:
        whole += piece
        passed += stops.add(piece)
        places = [place for place in map(whole.find, strings) if place >= 0]
        assert stops.found == bool(places)
        if places:
            break
        undecided = [whole[-n:] for n in range(1, 4) if any(s.startswith(whole[-n:]) for s in strings)]
        assert passed == whole[: len(whole) - max(map(len, undecided), default=0)]
    places = [place for place in map(whole.find, strings) if place >= 0]
    assert passed + stops.end() == (whole[: min(places)] if places else whole)
