"""Devices have noise budgets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "noise",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("runtime", sa.String(), nullable=False),
        sa.Column("accelerator", sa.String(), nullable=False),
        sa.Column("load_digest", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("measured", sa.String(), nullable=False),
        sa.Column("blocks", sa.Integer(), nullable=False),
        sa.Column("repeat_cv", sa.Float(), nullable=False),
        sa.Column("shared", sa.Float(), nullable=False),
        sa.Column("autocorrelation", sa.Float(), nullable=True),
        sa.Column("block_sd", sa.Float(), nullable=False),
        sa.Column("false_alarm", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    columns = ["device", "runtime", "accelerator", "load_digest", "metric"]
    op.create_index("noise_by_device", "noise", columns)
