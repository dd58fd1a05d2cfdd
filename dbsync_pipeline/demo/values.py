"""Values that a mirror tends to get wrong, by type; `dataset` spreads them over the demo's rows.

They leave out what not every engine can store: U+0000 in text, NaN and infinities, -0.0, a bare
number as a whole JSON value (SQLite stores it as a number), and keys that differ only in trailing
blanks.
"""

from __future__ import annotations

import datetime as dt
import decimal

UTC = dt.UTC

SENTENCES = (
    "Could you summarise the attached contract, please?",
    "The migration finished at 03:14 and nothing was lost.",
    "¿Puedes explicarme por qué falló la sincronización de anoche?",
    "Die Größe der Übertragung überrascht mich: fünf Zähler stehen höher.",
    "Où est passé l'élève naïf ? Là-bas, près du château.",
    "Não há diferença entre as duas versões do relatório.",
    "Почему таблица пуста после второго запуска?",
    "Η βάση δεδομένων απαντά ξανά.",
    "データベースの同期は完了しました。差分は四十行です。",
    "数据库已经同步，没有发现任何差异。",
    "데이터베이스가 다시 응답합니다.",
    "הגיבוי הושלם, אבל הקובץ README.md חסר.",
    "تمت المزامنة بنجاح، ولا توجد فروق (٣٫٥ ثانية).",
    "डेटाबेस अब बराबर है, धन्यवाद।",
    "ฐานข้อมูลตรงกันแล้ว",
    "தரவுத்தளம் சரியாக உள்ளது.",
    "Cơ sở dữ liệu đã được đồng bộ hoàn toàn.",
    "İstanbul'da ısı ölçümü değişti, iyi mi?",
    "მონაცემები ემთხვევა ერთმანეთს.",
    "Shipped it 🚀 — thanks, team 👩🏽\u200d💻👨\u200d👩\u200d👧\u200d👦!",
    "Use `SELECT count(*) FROM messages WHERE cost > 0.05;` and compare.",
    "```python\nprint('C:\\\\temp\\\\new', end='\\n')\n```",
    "Take 15 % off, round to 2 decimals, and tell me the total.",
    'I don\'t know; the "real" figure was never written down.',
)

HARD_TEXTS = (
    "",
    " ",
    "trailing blanks   ",
    "   leading blanks",
    "trailing newline\n",
    "\n\n\n",
    "tab\tseparated\tvalues\t",
    "Windows\r\nline\r\nends\r\n",
    "old Mac\rline\rends",
    "NULL",
    "null",
    "None",
    "\\N",
    "\\.",
    "~",
    "3:abc|",
    "0",
    "-0",
    "1e2",
    "0012",
    "true",
    "back\\slash \\\\ two \\t no tab \\x41 \\u0041 \\",
    "it's 'quoted' and \"doubly\" and `back`",
    "''';--",
    "Robert'); DROP TABLE users;--",
    "100% %s %(name)s %% :name ?1 $1 {braces} ${dollar}",
    "a,b;c|d\te",
    "<b>&amp;&#39;</b>",
    "e\u0301 is not \u00e9; A\u030a is not \u00c5; \ufb01 is not fi",
    "o\u0302\u0323\u0301\u0338 combining marks in a heap",
    "\u202eright to left override\u202c and back",
    "\u05e9\u05dc\u05d5\u05dd abc \u0645\u0631\u062d\u0628\u0627 123",
    "\u200bzero\u200cwidth\u200djoiners\ufeff",
    "\ufeffa byte order mark first",
    "non\u00a0breaking\u3000ideographic\u2028line\u2029paragraph\u0085next",
    "control \x01\x07\x08\x0b\x0c\x1b[31m\x7f characters",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f1ea\U0001f1f8\u2764\ufe0f",
    "\U00020000\U0002a6d6 \U0001d54f \U00010348 beyond the first plane",
    "\ue000\U0010fffd private use, \ufffd replacement, \ufffe and \uffff no characters",
    "\u0130\u0131 \u00df\u1e9e \u03c3\u03c2 \u01c5 awkward in upper and lower case",
    "z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319a\u0324\u031e\u0349\u035a"
    "l\u036d\u0322\u031eg\u0348o",
)

JSON_TEXTS = (
    "{}",
    "[]",
    "null",
    "true",
    '""',
    '"a bare string"',
    '{"a": null}',
    '{"theme":"dark","language":"pt-BR","font_scale":1.10}',
    '{"price": 1.10, "same": 1.1, "big": 1e2, "BIG": 1E+2, "small": 1e-7, "zero": 0.0, '
    '"minus": -0}',
    '{"integer": 12345678901234567890, "long": 3.14159265358979323846264338327950288}',
    '{ "spaces" :  [ 1 ,2,  3 ] ,\n\t"newline": true }',
    '{"b":1,"a":2,"b":3}',
    '{"escaped": "\\u00e9\\ud83d\\ude00\\n\\t\\"\\\\\\/", "raw": "\u00e9\U0001f600/"}',
    '{"": "empty key", " ": "blank key", "\u952e": "\u503c"}',
    '{"deep":{"deep":{"deep":{"deep":{"deep":{"deep":{"deep":[[[[[[{"end":[]}]]]]]]}}}}}}}',
    '[1, "two", null, {"three": [3.0, 3.00]}, false, [[]]]',
    '{"tool": "search", "arguments": "{\\"query\\": \\"it\'s 100%\\"}", "ok": true}',
    '{"text": "NULL", "other": "\\\\N", "tilde": "~"}',
)

HARD_COSTS = tuple(
    map(
        decimal.Decimal,
        (
            "0",
            "0.000001",
            "-0.000001",
            "999999.999999",
            "-999999.999999",
            "1.10",
            "100",
            "0.1",
            "123456.789012",
        ),
    )
)

HARD_FLOATS = (
    0.1 + 0.2,
    1 / 3,
    1.7976931348623157e308,
    -1.7976931348623157e308,
    2.2250738585072014e-308,
    1e22,
    9007199254740991.0,
    0.0,
    1.0,
    -1.5,
    5e-7,
    123456789.123456789,
    1 - 2.0**-53,
    1 + 2.0**-52,
)

HARD_INSTANTS = (
    dt.datetime(1970, 1, 1, tzinfo=UTC),
    dt.datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
    dt.datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    dt.datetime(2000, 2, 29, 12, 0, 0, 500_000, tzinfo=UTC),
    dt.datetime(2016, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.timezone(dt.timedelta(hours=-12))),
    dt.datetime(2025, 3, 30, 2, 30, 0, 3_000, tzinfo=dt.timezone(dt.timedelta(hours=1))),
    dt.datetime(2025, 10, 26, 2, 30, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=45))),
    dt.datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC),
    dt.datetime(2100, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.timezone(dt.timedelta(hours=14))),
)

HARD_EMAILS = (
    "ada@example.org",
    "Ada@example.org",
    "jos\u00e9@example.org",
    "jose\u0301@example.org",
    "用户@例子.测试",
    "o'brien+tag%1@example.org",
    "a" * 308 + "@example.org",
)

NAMES = (
    "",
    None,
    "Ada Lovelace",
    "Jos\u00e9 \u00d1and\u00fa",
    "Jose\u0301 N\u0303andu\u0301",
    "山田太郎",
    "محمد عبد الله",
    "Ægir Þórsson",
    "O'Brien",
    "👩🏽\u200d💻",
    "名" * 200,
    "NULL",
)

MEMORY_KEYS = (
    "language",
    "Language",
    "tone",
    "project:アルファ",
    "caf\u00e9",
    "cafe\u0301",
    "timezone",
    "ключ",
    "it's\\100%",
    "~",
    "🔑",
    "NULL",
    "k" * 200,
)

FILE_STEMS = (
    "report",
    "Résumé – naïve",
    "報告書",
    "..\\..\\boot",
    'it\'s 100% "final"',
    "تقرير",
    "🧾",
    "n" * 251,
)

FILE_SIZES = (
    None,
    0,
    1,
    2,
    255,
    256,
    257,
    4_095,
    4_096,
    8_191,
    8_192,
    8_193,
    65_535,
    65_536,
    65_537,
    1_000_000,
    1_048_576,
)

FILE_KINDS = (
    ("pdf", "application/pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"),
    ("png", "image/png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"),
    ("txt", "text/plain; charset=utf-8", b""),
    ("csv", "text/csv", b"\xef\xbb\xbfid;name\r\n"),
    ("bin", "application/octet-stream", b"\x00\\x'"),
)
