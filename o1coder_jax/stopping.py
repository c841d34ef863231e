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


def begins(stops: Stops, token: Int[Array, "..."]) -> Int[Array, "..."]:
    """States after first tokens."""
    return stops.following[0, token]


def ends(stops: Stops, state: Int[Array, "..."]) -> Bool[Array, "..."]:
    """Whether a stop has been met."""
    return state == stops.following.shape[0] - 1


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
    step, final = _automaton(delimiters)
    states = len(step)
    following = np.zeros((states + 1, len(pieces)), np.int32)
    for token, piece in enumerate(pieces):
        following[:states, token] = _run(step, final, piece)
    following[states] = states
    following[:, list(ids)] = states
    return Stops(jnp.asarray(following))


def _run(step: np.ndarray, final: np.ndarray, piece: bytes) -> np.ndarray:
    """The state after a token from each state at once; the number of states stands for the end."""
    state = np.arange(len(step))
    met = np.zeros(len(step), bool)
    for byte in piece:
        state = step[state, byte]
        met |= final[state]
    return np.where(met, len(step), state)


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
