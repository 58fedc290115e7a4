"""Keys and values that grow in place, so that a new token costs no copy of all before it."""

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from interp.models import Model

GROWTH = 2
"""Room is reserved for so many times the positions that are filled."""


class RoomyLayer(DynamicLayer):
    """Transformers' growing layer, but with room reserved where that one concatenates.

    `keys` and `values` are views of what is filled, so whoever keeps them beyond the next token copies them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rooms: dict[str, Tensor] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, *args, **kwargs
    ) -> tuple[Tensor, Tensor]:
        """Append, and return everything."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._appended("keys", self.keys, key_states)
        self.values = self._appended("values", self.values, value_states)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows, wherever the layer is."""
        if self.keys is not None:
            super().batch_select_indices(indices.to(self.keys.device))

    def _appended(self, name: str, old: Tensor | None, new: Tensor) -> Tensor:
        n_old = old.shape[-2] if old is not None and old.numel() else 0
        n, room = n_old + new.shape[-2], self._rooms.get(name)
        # What was selected, cropped or moved meanwhile stands elsewhere.
        here = room is not None and old is not None and room.data_ptr() == old.data_ptr()
        if room is None or not here or room.shape[-2] < n:
            room = new.new_empty(*new.shape[:-2], GROWTH * n, new.shape[-1])
            if old is not None and n_old:
                room[..., :n_old, :] = old
            self._rooms[name] = room
        room[..., n_old:n, :] = new
        return room[..., :n, :]


def growing_cache(model: Model) -> Cache:
    """An empty cache for `model`; layers with a sliding window keep all of the text too, for `logits_above`."""
    weights: Any = model.bridge.original_model
    return Cache(layers=[RoomyLayer() for _ in DynamicCache(config=weights.config).layers])
