"""The first tables"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "discarded",
        sa.Column("engine_session_id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("engine_session_id", "tenant", name="pk_discarded"),
    )
    op.create_table(
        "idempotent_requests",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.Text(), nullable=False),
        sa.Column("status", sa.BigInteger(), nullable=True),
        sa.Column("location", sa.Text(), nullable=True),
        sa.Column("body", Json, nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key", name="pk_idempotent_requests"),
    )
    with op.batch_alter_table("idempotent_requests") as batch_op:
        batch_op.create_index("ix_idempotent_requests_created_at", ["created_at"], unique=False)

    op.create_table(
        "jobs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=True),
        sa.Column("progress", Json, nullable=True),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("losses", sa.BigInteger(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("error", Json, nullable=True),
        sa.Column("result", Json, nullable=True),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.create_index("ix_jobs_status_heartbeat_at", ["status", "heartbeat_at"], unique=False)
        batch_op.create_index("ix_jobs_subject_kind", ["subject", "kind"], unique=False)
        batch_op.create_index("ix_jobs_tenant_created_at_id", ["tenant", "created_at", "id"], unique=False)

    op.create_table(
        "sessions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("engine_session_id", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("head", sa.Text(), nullable=False),
        sa.Column("parent", sa.Text(), nullable=True),
        sa.Column("forked_at", sa.Text(), nullable=True),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
    )
    with op.batch_alter_table("sessions") as batch_op:
        batch_op.create_index("ix_sessions_tenant_created_at_id", ["tenant", "created_at", "id"], unique=False)

    op.create_table(
        "sources",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=True),
        sa.Column("media_type", sa.Text(), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("revision", sa.Text(), nullable=True),
        sa.Column("tokens", sa.BigInteger(), nullable=True),
        sa.Column("characters", sa.BigInteger(), nullable=True),
        sa.Column("outline", Json, nullable=False),
        sa.Column("files", Json, nullable=False),
        sa.Column("warnings", Json, nullable=False),
        sa.Column("error", Json, nullable=True),
        sa.Column("reading_id", sa.Text(), nullable=True),
        sa.Column("job_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sources"),
    )
    with op.batch_alter_table("sources") as batch_op:
        batch_op.create_index("ix_sources_sha256", ["sha256"], unique=False)
        batch_op.create_index(
            "ix_sources_tenant_kind_created_at_id", ["tenant", "kind", "created_at", "id"], unique=False
        )

    op.create_table(
        "blocks",
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("char_start", sa.BigInteger(), nullable=False),
        sa.Column("char_end", sa.BigInteger(), nullable=False),
        sa.Column("line_start", sa.BigInteger(), nullable=False),
        sa.Column("line_end", sa.BigInteger(), nullable=False),
        sa.Column("page", sa.BigInteger(), nullable=True),
        sa.Column("path", sa.Text(), nullable=True),
        sa.Column("chapter", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["source_id"], ["sources.id"], name="fk_blocks_source_id_sources", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("source_id", "ordinal", name="pk_blocks"),
    )
    with op.batch_alter_table("blocks") as batch_op:
        batch_op.create_index("ix_blocks_source_id_char_end", ["source_id", "char_end"], unique=False)

    op.create_table(
        "bookmarks",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False),
        sa.Column("head", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_bookmarks_session_id_sessions", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_bookmarks"),
        sa.UniqueConstraint("session_id", "name", name="uq_bookmarks_session_id_name"),
    )
    op.create_table(
        "readings",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=True),
        sa.Column("digest", sa.Text(), nullable=True),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("segments_done", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["source_id"], ["sources.id"], name="fk_readings_source_id_sources", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_readings"),
        sa.UniqueConstraint("source_id", name="uq_readings_source_id"),
    )
    op.create_table(
        "session_sources",
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_session_sources_session_id_sessions", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["source_id"], ["sources.id"], name="fk_session_sources_source_id_sources", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("session_id", "source_id", name="pk_session_sources"),
    )
    op.create_table(
        "summaries",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("chapter", sa.BigInteger(), nullable=True),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("quotes", Json, nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["source_id"], ["sources.id"], name="fk_summaries_source_id_sources", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_summaries"),
        sa.UniqueConstraint("source_id", "chapter", name="uq_summaries_source_id_chapter"),
    )
    with op.batch_alter_table("summaries") as batch_op:
        batch_op.create_index("ix_summaries_source_id", ["source_id"], unique=False)

    op.create_table(
        "symbols",
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("line_start", sa.BigInteger(), nullable=False),
        sa.Column("line_end", sa.BigInteger(), nullable=False),
        sa.Column("char_start", sa.BigInteger(), nullable=False),
        sa.Column("char_end", sa.BigInteger(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("parent", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["source_id"], ["sources.id"], name="fk_symbols_source_id_sources", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("source_id", "ordinal", name="pk_symbols"),
    )
    with op.batch_alter_table("symbols") as batch_op:
        batch_op.create_index("ix_symbols_source_id_name", ["source_id", "name"], unique=False)

    op.create_table(
        "turns",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.BigInteger(), nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("origin", sa.Text(), nullable=True),
        sa.Column("usage", Json, nullable=True),
        sa.Column("timing", Json, nullable=True),
        sa.Column("evidence", Json, nullable=True),
        sa.Column("answered", sa.Boolean(), nullable=True),
        sa.Column("confirmed", sa.Boolean(), nullable=True),
        sa.Column("error", Json, nullable=True),
        sa.Column("head_before", sa.Text(), nullable=False),
        sa.Column("head_after", sa.Text(), nullable=True),
        sa.Column("engine_mark", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_turns_session_id_sessions", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_turns"),
    )
    with op.batch_alter_table("turns") as batch_op:
        batch_op.create_index("ix_turns_session_id_ordinal", ["session_id", "ordinal"], unique=False)

    op.create_table(
        "quotes",
        sa.Column("turn_id", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.BigInteger(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("char", Json, nullable=True),
        sa.Column("line", Json, nullable=True),
        sa.Column("page", sa.BigInteger(), nullable=True),
        sa.Column("path", sa.Text(), nullable=True),
        sa.Column("chapter", sa.BigInteger(), nullable=True),
        sa.Column("match", sa.Text(), nullable=False),
        sa.Column("span", Json, nullable=True),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name="fk_quotes_turn_id_turns", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("turn_id", "ordinal", name="pk_quotes"),
    )


def downgrade() -> None:
    op.drop_table("quotes")
    with op.batch_alter_table("turns") as batch_op:
        batch_op.drop_index("ix_turns_session_id_ordinal")

    op.drop_table("turns")
    with op.batch_alter_table("symbols") as batch_op:
        batch_op.drop_index("ix_symbols_source_id_name")

    op.drop_table("symbols")
    with op.batch_alter_table("summaries") as batch_op:
        batch_op.drop_index("ix_summaries_source_id")

    op.drop_table("summaries")
    op.drop_table("session_sources")
    op.drop_table("readings")
    op.drop_table("bookmarks")
    with op.batch_alter_table("blocks") as batch_op:
        batch_op.drop_index("ix_blocks_source_id_char_end")

    op.drop_table("blocks")
    with op.batch_alter_table("sources") as batch_op:
        batch_op.drop_index("ix_sources_tenant_kind_created_at_id")
        batch_op.drop_index("ix_sources_sha256")

    op.drop_table("sources")
    with op.batch_alter_table("sessions") as batch_op:
        batch_op.drop_index("ix_sessions_tenant_created_at_id")

    op.drop_table("sessions")
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.drop_index("ix_jobs_tenant_created_at_id")
        batch_op.drop_index("ix_jobs_subject_kind")
        batch_op.drop_index("ix_jobs_status_heartbeat_at")

    op.drop_table("jobs")
    with op.batch_alter_table("idempotent_requests") as batch_op:
        batch_op.drop_index("ix_idempotent_requests_created_at")

    op.drop_table("idempotent_requests")
    op.drop_table("discarded")
