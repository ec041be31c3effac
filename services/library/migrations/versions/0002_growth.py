"""Sources that are newer versions of others, what reading them was expected to cost, and what it did"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    with op.batch_alter_table("sources") as batch_op:
        batch_op.add_column(sa.Column("previous", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("ref", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("plan", Json, nullable=True))
    with op.batch_alter_table("readings") as batch_op:
        batch_op.add_column(sa.Column("shared_tokens", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("read_tokens", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("readings") as batch_op:
        batch_op.drop_column("read_tokens")
        batch_op.drop_column("shared_tokens")
    with op.batch_alter_table("sources") as batch_op:
        batch_op.drop_column("plan")
        batch_op.drop_column("ref")
        batch_op.drop_column("previous")
