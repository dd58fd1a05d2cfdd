"""The application's tables: the one authority on structure.

Assets, checks, schema and the order of tables are derived from this module's metadata. Edit it, or
name your own with `DBSYNC_MODELS=package.module`; nothing else changes. A module is used by its
`Base.metadata`, or by its `metadata`.
"""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Enum,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Unicode,
    UnicodeText,
    Uuid,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dbsync_pipeline.columns import NAMING, Instant, Key, distinct, reference


class Base(DeclarativeBase):
    """The tables' common base, with names for all constraints."""

    metadata = MetaData(naming_convention=NAMING)


class User(Base):
    """A person who uses the application."""

    __tablename__ = "users"
    __table_args__ = {"sqlite_autoincrement": True}

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    email: Mapped[str] = mapped_column(distinct(320), unique=True)
    name: Mapped[str | None] = mapped_column(Unicode(200))
    password_hash: Mapped[str] = mapped_column(Unicode(255))
    is_active: Mapped[bool] = mapped_column(Boolean, default=True)
    preferences: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[dt.datetime] = mapped_column(Instant)
    updated_at: Mapped[dt.datetime | None] = mapped_column(Instant)


class Chat(Base):
    """A conversation of one user."""

    __tablename__ = "chats"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid.uuid4)
    user_id: Mapped[int] = mapped_column(reference("users.id"), index=True)
    title: Mapped[str] = mapped_column(Unicode(500))
    is_archived: Mapped[bool] = mapped_column(Boolean, default=False)
    created_at: Mapped[dt.datetime] = mapped_column(Instant)
    updated_at: Mapped[dt.datetime | None] = mapped_column(Instant)


class Message(Base):
    """One message of a chat; `parent_id` is the message that it replies to."""

    __tablename__ = "messages"
    __table_args__ = {"sqlite_autoincrement": True}

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    chat_id: Mapped[uuid.UUID] = mapped_column(reference("chats.id"), index=True)
    parent_id: Mapped[int | None] = mapped_column(reference("messages.id"), index=True)
    role: Mapped[str] = mapped_column(
        Enum("user", "assistant", "system", "tool", name="message_role")
    )
    content: Mapped[str] = mapped_column(UnicodeText)
    tokens: Mapped[int | None] = mapped_column(Integer)
    cost: Mapped[decimal.Decimal | None] = mapped_column(Numeric(12, 6))
    metadata_: Mapped[Any | None] = mapped_column("metadata", JSON(none_as_null=True))
    created_at: Mapped[dt.datetime] = mapped_column(Instant)


class Document(Base):
    """A file that a user uploaded, with its content."""

    __tablename__ = "documents"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid.uuid4)
    user_id: Mapped[int] = mapped_column(reference("users.id"), index=True)
    chat_id: Mapped[uuid.UUID | None] = mapped_column(reference("chats.id"), index=True)
    filename: Mapped[str] = mapped_column(Unicode(255))
    mime_type: Mapped[str] = mapped_column(Unicode(127))
    content: Mapped[bytes | None] = mapped_column(LargeBinary)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(Unicode(64))
    uploaded_at: Mapped[dt.datetime] = mapped_column(Instant)


class UserMemory(Base):
    """What the application remembers about a user, by key."""

    __tablename__ = "user_memory"

    user_id: Mapped[int] = mapped_column(reference("users.id"), primary_key=True)
    key: Mapped[str] = mapped_column(distinct(200), primary_key=True)
    value: Mapped[str] = mapped_column(UnicodeText)
    importance: Mapped[float] = mapped_column(Float(53))
    embedding: Mapped[bytes | None] = mapped_column(LargeBinary)
    expires_at: Mapped[dt.datetime | None] = mapped_column(Instant)
    updated_at: Mapped[dt.datetime] = mapped_column(Instant)
