import numpy as np

from deepspot._stats.metrics import pearson
from deepspot.models._baselines import Linear, Ridge, ShuffledImages, TrainingMean


class Recorder(Linear):
    """Estimator that keeps its input."""

    def fit(self, bags, targets, **options):
        self.bags, self.options = bags, options
        return super().fit(bags, targets, **options)


def test_ridge_learns_nothing_from_the_wrong_images(world):
    targets, truth = world.image
    true, shuffled = (
        model.fit(world.train, targets, slides=world.slides).predict(world.test)
        for model in (Ridge(), ShuffledImages())
    )
    assert pearson(true, truth).min() > 0.8
    # All genes depend on three colors, so the mean r varies like that of three genes.
    assert abs(np.nan_to_num(pearson(shuffled, truth)).mean()) < 4 / np.sqrt(3 * len(truth))


def test_images_are_permuted_together_within_their_slide(world):
    model = ShuffledImages(factory=Recorder).fit(world.train, world.image[0], slides=world.slides)
    bags = model.estimator.bags
    came_from = [np.flatnonzero((world.train.spot == row).all(axis=1))[0] for row in bags.spot]
    assert sorted(came_from) == list(range(288))
    assert (world.slides[came_from] == world.slides).all()
    assert np.mean(came_from == np.arange(288)) < 0.05
    np.testing.assert_array_equal(bags.subspots, world.train.subspots[came_from])
    np.testing.assert_array_equal(bags.tiles, world.train.tiles[came_from])
    np.testing.assert_array_equal(bags.position, world.train.position)
    assert (bags.neighbors != world.train.neighbors).nnz == 0


def test_the_wrapped_system_gets_the_same_rows_slides_and_patients(world):
    rows = np.array([3, 3, 7, 200])
    model = ShuffledImages(factory=Recorder).fit(
        world.train, world.image[0], rows=rows, slides=world.slides, patients=world.slides
    )
    np.testing.assert_array_equal(model.estimator.options["rows"], rows)
    assert model.estimator.options["slides"] is world.slides
    assert model.estimator.options["patients"] is world.slides


def test_training_mean_is_the_null_model(bags, targets):
    holed = targets.copy()
    holed[:5, 0] = np.nan
    predicted = TrainingMean().fit(bags, holed, rows=np.arange(100)).predict(bags)
    np.testing.assert_allclose(predicted[7], np.nanmean(holed[:100], axis=0), rtol=1e-6)
    assert np.isnan(pearson(predicted, targets)).all()
    holed[:, 0] = np.nan
    assert (TrainingMean().fit(bags, holed).predict(bags)[:, 0] == 0).all()
