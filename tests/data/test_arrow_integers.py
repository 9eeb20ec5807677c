import numpy as np
import pyarrow as pa
import pytest

from recsys.data.arrow_integers import filled


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64()])
@pytest.mark.parametrize("values", [[5, None, 7, None, 9, 1, 2, 3, None, 4], [1, 2, 3], [None], []])
@pytest.mark.parametrize("start", [0, 1])
def test_integers_are_filled_as_arrow_fills_them(kind, values, start):
    column = pa.array(values, kind).slice(start)
    expected = column.fill_null(-1).to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(filled(column, -1), expected)
