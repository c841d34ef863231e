"""Where generation ends: a byte automaton over the vocabulary.

A delimiter may be one token, lie inside a longer token, or be spread over several. The automaton of Knuth, Morris and
Pratt (extended to several delimiters by Aho and Corasick, 1975) reads bytes; run over the bytes of each token from
each of its states it becomes a table (state, token) -> state, which is a traced value: other stops compile nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Stops:
    """The table.

    Attributes:
      following: (A, V), the state after a token; 0 is the start, A - 1 the end.
    """

    following: Int[Array, "A V"]

    @property
    def end(self) -> int:
        """The state in which a stop has been met."""
        return self.following.shape[0] - 1


def begins(stops: Stops, token: Int[Array, "..."]) -> Int[Array, "..."]:
    """States after first tokens."""
    return stops.following[0, token]


def ends(stops: Stops, state: Int[Array, "..."]) -> Bool[Array, "..."]:
    """Whether a stop has been met."""
    return state == stops.end


def stop_places(stops: Stops, tokens: Sequence[int]) -> list[int]:
    """Indices of the tokens that met a stop; after each the search for the next begins anew."""
    following, state, places = np.asarray(stops.following), 0, []
    for index, token in enumerate(tokens):
        state = following[state, token]
        if state == stops.end:
            places.append(index)
            state = 0
    return places


def stop_ids(vocab_size: int, ids: Sequence[int]) -> Stops:
    """Stops at any of these token ids."""
    following = np.zeros((2, vocab_size), np.int32)
    following[0, list(ids)] = 1
    following[1] = 1
    return Stops(jnp.asarray(following))


def stop_texts(pieces: Sequence[bytes], delimiters: Sequence[bytes], ids: Sequence[int] = ()) -> Stops:
    """Stops where any of the delimiters is complete, and at any of these token ids.

    Args:
      pieces: the bytes of each token of the vocabulary; none for tokens that are no text.
      delimiters: not empty, none of them empty.
    """
    if not delimiters or not all(delimiters):
        raise ValueError("a stop needs a delimiter, and a delimiter needs bytes")
    step, final = _automaton(delimiters)
    states = len(step)
    following = np.full((states + 1, len(pieces)), states, np.int32)
    following[:states] = _run(step, final, pieces)
    following[:, list(ids)] = states
    return Stops(jnp.asarray(following))


def _run(step: np.ndarray, final: np.ndarray, pieces: Sequence[bytes]) -> np.ndarray:
    """(states, V): the state after each token from each state; the number of states stands for the end.

    Byte by byte for all tokens at once that are long enough: a vocabulary of 150,000 takes about a second.
    """
    length = np.array([len(piece) for piece in pieces], np.int64)
    begin = np.cumsum(length) - length
    text = np.frombuffer(b"".join(pieces), np.uint8)
    end = len(step)
    # The end is a state of its own that no byte leaves.
    step = np.where(final[step], end, step)
    step = np.concatenate([step, np.full((1, 256), end)]).astype(np.int32)
    state = np.tile(np.arange(end, dtype=np.int32), (len(pieces), 1))
    going = np.arange(len(pieces))
    for place in range(max(length, default=0)):
        going = going[length[going] > place]
        state[going] = step[state[going], text[begin[going] + place][:, None]]
    return state.T


def _automaton(delimiters: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """(states, 256) moves of Aho and Corasick's automaton, and which states end a delimiter."""
    step, final = [[0] * 256], [False]
    for delimiter in delimiters:
        state = 0
        for byte in delimiter:
            if not step[state][byte]:
                step.append([0] * 256)
                final.append(False)
                step[state][byte] = len(step) - 1
            state = step[state][byte]
        final[state] = True
    back = [0] * len(step)
    queue = deque(child for child in step[0] if child)
    while queue:
        state = queue.popleft()
        final[state] = final[state] or final[back[state]]
        for byte in range(256):
            child, other = step[state][byte], step[back[state]][byte]
            if child:
                back[child] = other
                queue.append(child)
            else:
                step[state][byte] = other
    return np.array(step), np.array(final)
