from collections.abc import Callable, Mapping

import pytest
import torch

Split = Callable[[str, torch.Tensor], Mapping[str, torch.Tensor]]


@pytest.fixture(scope="session")
def transformer():
    """Function that returns the names of transformer blocks, with queries, keys and values in one parameter."""

    def names(published: str, ours: str, attention: str = "0", feed: str = "1") -> dict[str, str | Split]:
        def divide(_: str, values: torch.Tensor) -> dict[str, torch.Tensor]:
            parts = zip(("query", "key", "value"), values.chunk(3), strict=True)
            return {f"{ours}.attention.{part}.weight": weight for part, weight in parts}

        return {
            f"{published}.{attention}.norm": f"{ours}.norm",
            f"{published}.{attention}.fn.to_qkv": divide,
            f"{published}.{attention}.fn.to_out.0": f"{ours}.attention.out.0",
            f"{published}.{feed}.norm": f"{ours}.feed.0",
            f"{published}.{feed}.fn.net.0": f"{ours}.feed.1",
            f"{published}.{feed}.fn.net.3": f"{ours}.feed.4",
        }

    return names
