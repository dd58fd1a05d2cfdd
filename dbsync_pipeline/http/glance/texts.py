"""What the page says, in English and in Spanish: its texts, numbers, ages and moments.

Reasons and remedies come from the program as they are, in English; the commands are the same.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

ENGLISH: Mapping[str, str] = {
    "title": "Standbys",
    "language": "Language",
    "sign_in": "Sign in",
    "sign_in_about": "Sign in with the value of DBSYNC_API_TOKEN.",
    "token": "Token",
    "sign_out": "Sign out",
    "wrong_token": "That is not the token.",
    "too_many": "Too many wrong tokens. Try again in {minutes} min.",
    "not_from_here": "Another site sent this request, so it was ignored. Sign in here.",
    "signed_out": "You are signed out.",
    "error": "The page cannot be shown",
    "remedy": "Remedy",
    "head_all": "All standbys could take over now.",
    "head_all_one": "{names} could take over now.",
    "head_warns": "All standbys could take over, but look at the warnings.",
    "head_warns_one": "{names} could take over, but look at the warning.",
    "head_oldest": "The oldest state that one of them holds is {age} old.",
    "head_oldest_one": "The state that it holds is {age} old.",
    "head_some": "{ready} of {all} standbys could take over now.",
    "head_none": "No standby could take over now.",
    "head_unchecked": "Not every standby has been checked yet.",
    "head_no_standby": "{name} has no standby.",
    "head_primary_silent": "{name}, the primary, does not answer.",
    "primary": "Primary",
    "ready": "Ready",
    "old": "Ready, but old",
    "stale": "Ready when last checked",
    "not_ready": "Not ready",
    "silent": "No answer",
    "unchecked": "Not checked yet",
    "writes_here": "The application writes here.",
    "term": "term {term}",
    "pending": "A promotion or failback has not finished: {pending}. `dbsync status` says more.",
    "holds": "Holds",
    "holds_of": "{source} as of {age} ago",
    "holds_nothing": "nothing yet",
    "holds_unknown": "not known: it does not answer",
    "partial": "some tables only",
    "data": "Data",
    "last_plan": "Last plan",
    "plan_published": "No guard objected; {rows} changed",
    "plan_equal": "No guard objected; nothing to change",
    "plan_undone": "Undo of publish {undoes}; {rows} restored",
    "plan_refused": "Refused",
    "plan_failed": "The sync failed",
    "plan_none": "none yet",
    "checked": "Checked",
    "never": "never: `dbsync ui`, or Dagster's daemon, does it",
    "ago": "{age} ago",
    "plot": "Rows changed by each sync to {name}",
    "plot_none": "No sync in this time",
    "syncs": "Last syncs",
    "syncs_none": "Nothing was synced yet: `dbsync sync`.",
    "when": "When",
    "what": "From, to",
    "outcome": "Outcome",
    "changed": "Rows changed",
    "sent": "Sent",
    "took": "Took",
    "by": "Launched by",
    "published": "published",
    "equal": "nothing to change",
    "undone": "undo",
    "refused": "refused",
    "failed": "failed",
    "running": "running",
    "read": "Ledgers read {age} ago.",
    "read_again": "Read them now",
    "times": "Times are {zone}. Readiness is of Dagster's last check; nothing here changes data.",
    "check_reachable": "Does not answer",
    "check_distinct": "Two names, one database",
    "check_structure": "Structure differs",
    "check_foreign_keys": "Foreign keys",
    "check_counters": "Next numbers are taken",
    "check_writes": "Cannot be written to",
    "check_whole": "Not consistent",
    "check_released": "Paused",
    "check_age": "Too old",
    "row_one": "row",
    "row_many": "rows",
    "table_one": "table",
    "table_many": "tables",
    "and": "and",
}

SPANISH: Mapping[str, str] = {
    "title": "Copias de reserva",
    "language": "Idioma",
    "sign_in": "Entrar",
    "sign_in_about": "Entre con el valor de DBSYNC_API_TOKEN.",
    "token": "Token",
    "sign_out": "Salir",
    "wrong_token": "Ese no es el token.",
    "too_many": "Demasiados intentos. Vuelva a probar dentro de {minutes} min.",
    "not_from_here": "La petición venía de otro sitio y no se ha atendido. Entre aquí.",
    "signed_out": "Ha salido.",
    "error": "No se puede mostrar la página",
    "remedy": "Remedio",
    "head_all": "Todas las de reserva podrían sustituir a la primaria ahora.",
    "head_all_one": "{names} podría sustituir a la primaria ahora.",
    "head_warns": "Todas podrían sustituir a la primaria, pero hay avisos.",
    "head_warns_one": "{names} podría sustituir a la primaria, pero hay un aviso.",
    "head_oldest": "El estado más antiguo que contienen es de hace {age}.",
    "head_oldest_one": "El estado que contiene es de hace {age}.",
    "head_some": "{ready} de {all} podrían sustituir a la primaria ahora.",
    "head_none": "Ninguna podría sustituir a la primaria ahora.",
    "head_unchecked": "Aún no se han comprobado todas las de reserva.",
    "head_no_standby": "{name} no tiene ninguna copia de reserva.",
    "head_primary_silent": "{name}, la primaria, no responde.",
    "primary": "Primaria",
    "ready": "Lista",
    "old": "Lista, pero antigua",
    "stale": "Lista cuando se comprobó",
    "not_ready": "No está lista",
    "silent": "No responde",
    "unchecked": "Sin comprobar",
    "writes_here": "La aplicación escribe aquí.",
    "term": "término {term}",
    "pending": "No ha terminado una promoción o un regreso: {pending}. Vea `dbsync status`.",
    "holds": "Contiene",
    "holds_of": "{source} de hace {age}",
    "holds_nothing": "nada todavía",
    "holds_unknown": "no se sabe: no responde",
    "partial": "solo algunas tablas",
    "data": "Datos",
    "last_plan": "Último plan",
    "plan_published": "Sin objeciones; {rows} cambiadas",
    "plan_equal": "Sin objeciones; nada que cambiar",
    "plan_undone": "Deshizo la publicación {undoes}; {rows} recuperadas",
    "plan_refused": "Rechazado",
    "plan_failed": "La sincronización falló",
    "plan_none": "ninguno todavía",
    "checked": "Comprobada",
    "never": "nunca: lo hace `dbsync ui`, o el daemon de Dagster",
    "ago": "hace {age}",
    "plot": "Filas cambiadas en cada sincronización de {name}",
    "plot_none": "Ninguna sincronización en este tiempo",
    "syncs": "Últimas sincronizaciones",
    "syncs_none": "Aún no se ha sincronizado nada: `dbsync sync`.",
    "when": "Cuándo",
    "what": "De, a",
    "outcome": "Resultado",
    "changed": "Filas cambiadas",
    "sent": "Enviado",
    "took": "Duró",
    "by": "La lanzó",
    "published": "publicada",
    "equal": "nada que cambiar",
    "undone": "deshecha",
    "refused": "rechazada",
    "failed": "falló",
    "running": "en marcha",
    "read": "Registros leídos hace {age}.",
    "read_again": "Leerlos ahora",
    "times": "Horas de {zone}. La disponibilidad es la de la última comprobación de Dagster; "
    "esta página no cambia ningún dato.",
    "check_reachable": "No responde",
    "check_distinct": "Dos nombres, una sola base",
    "check_structure": "La estructura difiere",
    "check_foreign_keys": "Claves foráneas",
    "check_counters": "Los números siguientes están ocupados",
    "check_writes": "No se puede escribir",
    "check_whole": "No es coherente",
    "check_released": "En pausa",
    "check_age": "Demasiado antigua",
    "row_one": "fila",
    "row_many": "filas",
    "table_one": "tabla",
    "table_many": "tablas",
    "and": "y",
}

_MONTHS = {
    "en": ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
    "es": ("ene", "feb", "mar", "abr", "may", "jun", "jul", "ago", "sep", "oct", "nov", "dic"),
}
_SEPARATORS = {"en": (",", "."), "es": ("\N{NO-BREAK SPACE}", ",")}
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))


class Language:
    """One of the two languages, `en` or `es`, with the time zone of the moments that it writes."""

    def __init__(self, code: str, zone: str) -> None:
        self.code = code
        self.zone = zone
        self._texts = ENGLISH if code == "en" else SPANISH

    def text(self, name: str, /, **values: Any) -> str:
        """Return the text of that name, with the values in it."""
        return self._texts[name].format(**values)

    def number(self, number: float, digits: int = 0) -> str:
        """Return the number as the language writes it."""
        thousands, decimal = _SEPARATORS[self.code]
        return f"{number:,.{digits}f}".translate({ord(","): thousands, ord("."): decimal})

    def count(self, number: int, noun: str) -> str:
        """Return `1 row`, `25,300 rows`."""
        return f"{self.number(number)} {self.text(noun + ('_one' if number == 1 else '_many'))}"

    def names(self, names: Sequence[str]) -> str:
        """Return `a`, `a and b`, `a, b and c`."""
        *most, last = names
        return f"{', '.join(most)} {self.text('and')} {last}" if most else last

    def size(self, count: int) -> str:
        """Return a number of bytes with its unit; 1 kB is 1,000 bytes."""
        for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
            if count >= size:
                return f"{self.number(count / size, 1)} {unit}"
        return f"{self.number(count)} B"

    def seconds(self, seconds: float) -> str:
        """Return a duration: `0.8 s`, `41 s`, `3 min`."""
        if seconds < 60:
            return f"{self.number(seconds, 1 if seconds < 10 else 0)} s"
        return self.age(seconds)

    def age(self, seconds: float) -> str:
        """Return `40 s`, `12 min`, `3 h 20 min` or `5 d 2 h`."""
        for (unit, size), (smaller, part) in zip(_UNITS, (*_UNITS[1:], ("", 0)), strict=True):
            if seconds >= size:
                rest = int(seconds % size // part) if part else 0
                return f"{int(seconds // size)} {unit}" + (f" {rest} {smaller}" if rest else "")
        return f"{max(0, int(seconds))} s"

    def moment(self, moment: dt.datetime) -> str:
        """Return `26 Nov, 14:05`."""
        local = moment.astimezone(ZoneInfo(self.zone))
        return f"{local.day} {_MONTHS[self.code][local.month - 1]}, {local:%H:%M}"

    def tick(self, moment: dt.datetime, seconds: int) -> str:
        """Return a label of an axis of that length: the time of day, or the date."""
        local = moment.astimezone(ZoneInfo(self.zone))
        if seconds > 2 * 86_400:
            return f"{local.day} {_MONTHS[self.code][local.month - 1]}"
        return f"{local:%H:%M}"


def preferred(accept_language: str) -> str:
    """Return `es` or `en`: the one of them that the header `Accept-Language` wants more."""
    wishes: dict[str, float] = {}
    for part in accept_language.split(","):
        tag, _, quality = part.strip().partition(";q=")
        code = tag.split("-")[0].lower()
        try:
            wishes[code] = max(wishes.get(code, 0.0), float(quality or 1))
        except ValueError:
            continue
    return "es" if wishes.get("es", 0.0) > wishes.get("en", 0.0) else "en"
