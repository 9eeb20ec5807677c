"""Weights carried from one log's net to another's, by id."""

import numpy as np
import pyarrow as pa
import pytest

from recsys.candidates.model import CandidateModel
from recsys.candidates.sizes import CandidateSizes
from recsys.candidates.weights import IdSpaces, load_weights, save_weights
from recsys.core.backends import to_numpy
from recsys.data.catalogue import Catalogue
from recsys.data.vocabulary import Vocabulary
from recsys.errors import TrainingError
from tests.candidates.small_log import settings_of


def spaces(items, tokens, countries, num_trained=None):
    catalogue = Catalogue(
        Vocabulary.from_ids(items),
        pa.table({"item_id": items}),
        np.ones(len(items), np.int64),
        len(items) if num_trained is None else num_trained,
    )
    names = {"search_token": tokens, "country": countries}
    return IdSpaces(catalogue, {name: Vocabulary.from_ids(ids) for name, ids in names.items()})


def net_of(ids, seed, **changes):
    settings = settings_of(**changes)
    num_tokens = ids.vocabularies["search_token"].num_codes
    context = {"country": ids.vocabularies["country"].num_codes}
    sizes = CandidateSizes(ids.catalogue.num_trained, num_tokens, context)
    model = CandidateModel(settings, sizes, seed=seed)
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    return model


OLD = spaces(["a", "b", "c", "rare"], ["dog"], ["DE", "FR"], num_trained=3)
NEW = spaces(["c", "new", "rare", "a"], ["cat", "dog"], ["FR"])


@pytest.mark.parametrize("similarity", ["inner_product", "cosine"])
@pytest.mark.parametrize("shared_table", [False, True])
def test_rows_follow_their_ids_and_new_ids_begin_anew(tmp_path, similarity, shared_table):
    changes = {"similarity": similarity, "shared_table": shared_table}
    old, new = net_of(OLD, 0, **changes), net_of(NEW, 1, **changes)
    begun = {n: to_numpy(each.value) for n, each in enumerate(new.variables)}
    save_weights(old, tmp_path / "weights.npz")
    load_weights(new, NEW, tmp_path / "weights.npz", OLD)
    for table in ("watch_table", "output_table"):
        was, now = (to_numpy(getattr(net, table).own.table.value) for net in (old, new))
        np.testing.assert_array_equal(now[[0, 1, 4]], was[[0, 3, 1]])  # none, c, a
        number = next(n for n, v in enumerate(new.variables) if v is getattr(new, table).own.table)
        np.testing.assert_array_equal(now[[2, 3]], begun[number][[2, 3]])  # new, rare
    if similarity == "inner_product":
        was, now = to_numpy(old.output_bias.value), to_numpy(new.output_bias.value)
        np.testing.assert_array_equal(now[[0, 3]], was[[2, 0]])
    was, now = (to_numpy(net.token_table.table.value) for net in (old, new))
    np.testing.assert_array_equal(now[2], was[1])
    was, now = (to_numpy(net.context_tables[0].table.value) for net in (old, new))
    np.testing.assert_array_equal(now[1], was[2])
    for ours, theirs in zip(old.tower.variables, new.tower.variables, strict=True):
        np.testing.assert_array_equal(to_numpy(ours.value), to_numpy(theirs.value))


@pytest.mark.parametrize("changes", [{"tower": (9,)}, {"embedding_width": 8}, {"searches": False}])
def test_a_net_of_other_parts_is_refused(tmp_path, changes):
    save_weights(net_of(OLD, 0), tmp_path / "weights.npz")
    with pytest.raises(TrainingError, match="other inputs, widths or depth"):
        load_weights(net_of(NEW, 1, **changes), NEW, tmp_path / "weights.npz", OLD)
