"""An optimizer that learns tables by a rule of rows, and all else by a dense optimizer.

What a step costs depends on the rows in the batch, not on those in the table, as long as gradients
come sparse (`recsys.core.backends.update_rows`). A weight decay belongs to the dense optimizer and
never reaches a table: to shrink all rows in every step is to read all rows in every step, and to
shrink only those of the batch would punish items for being watched.
"""

from functools import partial

import keras

from recsys.core.backends import Tensor, sum_repeated_rows, update_rows
from recsys.core.optimizers.row_rules import TableRule

TABLE = "table"


def is_table(variable: keras.Variable) -> bool:
    """Tell whether a variable is one whose rows are looked up by code: its name ends in `table`."""
    return variable.name.endswith(TABLE)


class RowSparse:
    """Tables by one rule, the rest of the variables by a dense optimizer.

    `sums_repeated_rows`: tables are summed where they are changed, which is faster.

    Args:
        rule: Of the tables.
        schedule: Learning rate of the tables at a step, counted from 0.
        dense: Of the rest; with a schedule of its own.
    """

    sums_repeated_rows = True

    def __init__(
        self,
        rule: TableRule,
        schedule: keras.optimizers.schedules.LearningRateSchedule,
        dense: keras.Optimizer,
    ) -> None:
        self.rule, self.schedule, self.dense = rule, schedule, dense
        self.num_steps = keras.Variable(0, dtype="int32", trainable=False, name="num_steps")
        self._slots: list[list[keras.Variable]] = []

    @property
    def variables(self) -> list[keras.Variable]:
        """Counters and slots, in an order that depends on the variables alone."""
        slots = [slot for slots_of_table in self._slots for slot in slots_of_table]
        return [self.num_steps, *slots, *self.dense.variables]

    def build(self, variables: list[keras.Variable]) -> None:
        """Make the slots."""
        self.dense.build([variable for variable in variables if not is_table(variable)])
        self._slots = [_zeros(self.rule, table) for table in variables if is_table(table)]

    def apply(self, gradients: list[Tensor], variables: list[keras.Variable]) -> None:
        """Take one step; the gradients and variables are in the order of `build`."""
        learning_rate = self.schedule(self.num_steps.value)
        pairs = list(zip(gradients, variables, strict=True))
        tables = [pair for pair in pairs if is_table(pair[1])]
        for (gradient, table), slots in zip(tables, self._slots, strict=True):
            if gradient is not None:
                update_rows(table, slots, gradient, partial(self.rule, learning_rate=learning_rate))
        rest = [pair for pair in pairs if not is_table(pair[1])]
        self.dense.apply([sum_repeated_rows(pair[0]) for pair in rest], [pair[1] for pair in rest])
        self.num_steps.assign(self.num_steps + 1)

    def finalize_variable_values(self, variables: list[keras.Variable]) -> None:
        """Leave the variables as they are: nothing is averaged here."""


def _zeros(rule: TableRule, table: keras.Variable) -> list[keras.Variable]:
    return [
        keras.Variable(
            initializer="zeros", shape=shape, dtype=table.dtype, trainable=False, name="slot"
        )
        for shape in rule.slot_shapes(tuple(table.shape))
    ]
