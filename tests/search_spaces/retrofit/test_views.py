from __future__ import annotations

import torch

from syno_nni.search_spaces.retrofit.views import Views


def test_a_view_is_a_shifted_crop_or_its_mirror_image() -> None:
    image = torch.arange(16.0 * 16).view(1, 1, 16, 16)
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2), mode='replicate')
    every = {tuple(view.reshape(-1).tolist()) for top in range(5) for left in range(5)
             for crop in [padded[:, :, top:top + 16, left:left + 16]] for view in (crop, padded.flip(3)[
                 :, :, top:top + 16, left:left + 16])}
    views = Views([], seed=3).of(image.expand(200, -1, -1, -1))
    seen = {tuple(view.reshape(-1).tolist()) for view in views}
    assert views.shape == (200, 1, 16, 16) and seen <= every and len(seen) > 40


def test_views_differ_from_pass_to_pass_and_repeat_with_the_seed() -> None:
    batches = [(torch.randn(4, 3, 16, 16), torch.arange(4))]
    views = Views(batches, seed=1)
    (first, labels), = views
    (second, _), = views
    (again, _), = Views(batches, seed=1)
    assert labels.tolist() == [0, 1, 2, 3] and torch.equal(first, again) and not torch.equal(first, second)


def test_small_images_are_not_shifted() -> None:
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(Views([], mirror=False).of(x), x)
