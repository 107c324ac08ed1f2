"""Listings: the rows that a search reads, kept beside the versions they describe, and the search itself."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Column, ColumnElement, FromClause, Integer, Select, cast, exists, func, literal_column, select
from sqlalchemy import table as sql_table
from sqlalchemy.dialects.postgresql import TSQUERY
from sqlalchemy.orm import Session

from registry.caller import Caller
from registry.progress import Report, silent
from registry.queries import LATEST, visible
from registry.schemas import SearchIn
from registry.tables import FTS_TABLE, Benchmark, Listing, Tag, Version
from registry.terms import BOUNDS, FACETS, listing_terms, search_terms, words
from zoo.stub import PREFIX

BLOCK_BITS = (9, 13, 17, 21)  # sizes of the blocks of ids that PostgreSQL's index of terms knows, as powers of 2
BATCH = 100  # listings made at once; each reads a manifest of up to megabytes
_EQUAL = (*FACETS, "quantized")
_CASELESS = "license"  # as SPDX matches its identifiers
_LISTINGS = Listing.__table__
_FTS = sql_table(FTS_TABLE, Column("rowid", Integer))
_BLOCKS = ", ".join(f"'=b{bits}=' || (listings.model_id >> {bits})::text" for bits in BLOCK_BITS)
_UNLISTED = ~exists().where(Listing.model_id == Tag.model_id)
INDEXED: ColumnElement[Any] = literal_column(f"(listings.terms || array_to_tsvector(ARRAY[{_BLOCKS}]))")


# --- keeping them


def refresh(session: Session, model_id: int) -> None:
    """Makes a model's listing say what its latest version does; a model without one has no listing."""
    session.flush()
    version = session.scalar(_latest().where(Tag.model_id == model_id))
    if version is not None:
        session.merge(_listing(version, _latencies(session, [version.id])))
    elif (listing := session.get(Listing, model_id)) is not None:
        session.delete(listing)
    session.flush()


def complete(session: Session, report: Report = silent) -> None:
    """Makes the listings that models lack, as after a migration."""
    found = lacking(session)
    for start in range(0, len(found), BATCH):
        report("listings", start, len(found))
        fill(session, found[start : start + BATCH])
        session.expunge_all()
    report("listings", len(found), len(found))


def lacking(session: Session) -> Sequence[int]:
    """The models that lack their listing."""
    return session.scalars(select(Tag.model_id).where(Tag.tag == LATEST, _UNLISTED)).all()


def fill(session: Session, model_ids: Sequence[int]) -> None:
    """Makes the listings that these models still lack."""
    versions = session.scalars(_latest().where(Tag.model_id.in_(model_ids), _UNLISTED)).all()
    latencies = _latencies(session, [version.id for version in versions])
    session.add_all(_listing(version, latencies) for version in versions)
    session.flush()


def _latest() -> Select[Version]:
    return select(Version).join(Tag, (Tag.version_id == Version.id) & (Tag.tag == LATEST))


def _latencies(session: Session, version_ids: Sequence[int]) -> dict[int, float]:
    """The lowest median in milliseconds that each version was measured to have at batch size 1."""
    measured = Benchmark.version_id.in_(version_ids) & (Benchmark.batch_size == 1)
    lowest = select(Benchmark.version_id, func.min(Benchmark.median_ms)).where(measured)
    return dict(session.execute(lowest.group_by(Benchmark.version_id)).all())


def f1_of(metrics: Mapping[str, Any]) -> float | None:
    """F1 in percent from a manifest's metrics, where 0.87 and 87 mean the same."""
    value = next((metrics[name] for name in ("f1", "F1", "eval_f1") if name in metrics), None)
    if value is None or not 0 <= value <= 100:
        return None
    return float(value * 100 if value <= 1 else value)


def _listing(version: Version, latencies: Mapping[int, float]) -> Listing:
    facts = json.loads(version.manifest).get("metadata", {})
    facets = {name: facts.get(name) for name in _EQUAL}
    numbers = {
        "sparsity": facts.get("sparsity"),
        "size_bytes": version.size_bytes,
        "f1": f1_of(facts.get("metrics", {})),
        "latency_ms": latencies.get(version.id),
    }
    model = version.model
    return Listing(
        model_id=model.id,
        version_id=version.id,
        full_name=model.full_name,
        private=model.private,
        terms=listing_terms(
            (model.full_name, (version.alias or "").removeprefix(PREFIX)),
            facts.get("description") or "",
            facets,
            numbers,
            public=not model.private,
        ),
        **facets,
        **numbers,
    )


# --- finding them


class _Search(NamedTuple):
    """A search as both databases need it: what must hold, which columns to return, and below which id to begin."""

    wanted: SearchIn
    terms: list[str]
    caller: Caller
    columns: Sequence[str]
    below: int | None
    limit: int

    def select_from(self, rows: FromClause) -> Select[Any]:
        """The matching rows of the listings or of a part of them, terms left aside."""
        return select(*(rows.c[name] for name in self.columns)).where(*self._conditions(rows))

    def older(self, identifier: ColumnElement[Any]) -> list[ColumnElement[bool]]:
        """That a row comes after the page before."""
        return [] if self.below is None else [identifier < self.below]

    def _conditions(self, rows: FromClause) -> Iterator[ColumnElement[bool]]:
        for name in _EQUAL:
            if (value := getattr(self.wanted, name)) is None:
                continue
            yield func.lower(rows.c[name]) == func.lower(value) if name == _CASELESS else rows.c[name] == value
        for bound in BOUNDS:
            limit, column = getattr(self.wanted, bound.wanted), rows.c[bound.column]
            if limit is not None:
                yield column >= limit if bound.is_minimum else column <= limit
        if not self.caller.sees_everything:
            yield visible(self.caller, rows.c)


def search(
    session: Session, wanted: SearchIn, caller: Caller, columns: Sequence[str], below: int | None, limit: int
) -> Sequence[Any]:
    """The asked columns of the listings that match, newest model first.

    A model's id never changes, so no model is skipped or repeated while others are published between two pages.
    """
    if wanted.q.strip() and not words(wanted.q):
        return ()
    terms = search_terms(wanted, only_public=not caller.grants)
    asked = _Search(wanted, terms, caller, columns, below, limit)
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    return _search_fts5(session, asked) if is_sqlite else _search_tsvector(session, asked)


def _search_fts5(session: Session, asked: _Search) -> Sequence[Any]:
    """FTS5 yields rows in the order of their ids as it finds them, so that a page costs what it shows."""
    query, statement = " AND ".join(f'"{term}"' for term in asked.terms), asked.select_from(_LISTINGS)
    rows: ColumnElement[int] = _LISTINGS.c.model_id
    if query:
        joined = _FTS.join(_LISTINGS, _FTS.c.rowid == rows)
        statement = statement.select_from(joined).where(literal_column(FTS_TABLE).op("MATCH")(query))
        rows = _FTS.c.rowid
    return session.execute(statement.where(*asked.older(rows)).order_by(rows.desc()).limit(asked.limit)).all()


def _search_tsvector(session: Session, asked: _Search) -> Sequence[Any]:
    """Asks the index of terms for one range of ids after the other, newest first and each larger than the last.

    An index of terms knows no order: it would give all that match, to be sorted, where a page needs the newest few. The
    planner's other way, reading the newest listings until enough match, reads as many as the match is rare.
    """
    if not asked.terms:
        statement = asked.select_from(_LISTINGS).where(*asked.older(_LISTINGS.c.model_id))
        return session.execute(statement.order_by(_LISTINGS.c.model_id.desc()).limit(asked.limit)).all()
    newest = session.scalar(select(func.max(_LISTINGS.c.model_id)).where(*asked.older(_LISTINGS.c.model_id)))
    columns = [column for column in _LISTINGS.c if column is not _LISTINGS.c.terms]
    found: list[Any] = []
    for below, blocks in _ranges(newest or 0):
        query = " & ".join([f"'{term}'" for term in asked.terms] + ([f"({blocks})"] if blocks else []))
        matching = INDEXED.op("@@")(cast(query, TSQUERY))
        part = select(*columns).where(_LISTINGS.c.model_id < below, matching)
        rows = part.cte("part").prefix_with("MATERIALIZED")
        wanted = asked.select_from(rows).order_by(rows.c.model_id.desc()).limit(asked.limit - len(found))
        found += session.execute(wanted).all()
        if len(found) >= asked.limit:
            break
    return found


def _ranges(newest: int) -> Iterator[tuple[int, str]]:
    """Ranges of ids from the newest down: an id that they lie below, and the blocks that hold them, none for the rest.

    Two blocks of each size at most, so that a range holds more than one, wherever the newest id stands in its block.
    """
    below = newest + 1
    for bits in BLOCK_BITS:
        first = max((newest >> bits) - 1, 0)
        yield below, " | ".join(f"'=b{bits}={block}'" for block in range(first, (below - 1 >> bits) + 1))
        below = first << bits
        if not below:
            return
    yield below, ""


def count_facets(session: Session, wanted: SearchIn, caller: Caller, limit: int) -> tuple[int, dict[str, Counter[str]]]:
    """How many listings match, up to `limit`, and how often those have each value of each facet."""
    rows = search(session, wanted, caller, FACETS, None, limit)
    counts = {name: Counter(row[place] for row in rows if row[place]) for place, name in enumerate(FACETS)}
    return len(rows), {**counts, _CASELESS: _without_case(counts[_CASELESS])}


def _without_case(counts: Counter[str]) -> Counter[str]:
    """Spellings that differ by case alone, counted together under the most frequent one."""
    merged, spellings = Counter[str](), dict[str, str]()
    for value, count in counts.most_common():
        merged[spellings.setdefault(value.lower(), value)] += count
    return merged


def count_visible(session: Session, caller: Caller, limit: int) -> int:
    """How many models there are for the caller, up to `limit`."""
    some = select(_LISTINGS.c.model_id)
    if not caller.sees_everything:
        some = some.where(visible(caller, _LISTINGS.c))
    return session.scalar(select(func.count()).select_from(some.limit(limit).subquery())) or 0


def family(session: Session, listing: Listing, caller: Caller, limit: int) -> Sequence[Listing]:
    """Models of the same task, data set and architecture, newest first; the model alone where one isn't known."""
    facts = {name: getattr(listing, name) for name in ("task", "dataset", "architecture")}
    if None in facts.values():
        return [listing]
    alike = [getattr(Listing, name) == value for name, value in facts.items()]
    statement = select(Listing).where(*alike, visible(caller, Listing)).order_by(Listing.model_id.desc())
    return session.scalars(statement.limit(limit)).all()
