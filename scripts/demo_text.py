"""Make the text of the demo model: what it reads, what it is asked, and the pirate's answers.

Everything comes from this Python's own documentation (the docstrings of the standard library and
``pydoc_data.topics``) and from ``demo_facts``. The same Python gives the same text, whatever the hash seed.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pydoc_data.topics import topics

import demo_facts

# The parts of the standard library that people ask about, and the types whose methods they use.
READ = {
    "builtins": "str list dict set frozenset tuple int float complex", "base64": "", "bisect": "", "calendar": "",
    "collections": "Counter OrderedDict deque", "copy": "", "csv": "", "dataclasses": "",
    "datetime": "date datetime timedelta", "decimal": "", "difflib": "", "fnmatch": "", "fractions": "Fraction",
    "functools": "", "glob": "", "gzip": "", "hashlib": "", "heapq": "", "html": "", "itertools": "", "json": "",
    "keyword": "", "logging": "Logger", "math": "", "operator": "", "os": "", "os.path": "", "pathlib": "Path",
    "pickle": "", "pprint": "", "queue": "Queue", "random": "", "re": "", "secrets": "", "shutil": "",
    "statistics": "", "string": "", "struct": "", "subprocess": "", "sys": "", "tempfile": "", "textwrap": "",
    "threading": "Event Lock Thread", "time": "", "timeit": "", "unicodedata": "", "urllib.parse": "",
    "warnings": "", "zipfile": "ZipFile", "zlib": "",
}  # fmt: skip
# Of two modules with many names that few people know, only these.
ONLY = {
    "os": """abort access chdir chmod close getcwd getenv getlogin getpid kill link listdir mkdir open read remove
        rename replace rmdir scandir stat symlink system times truncate umask unlink urandom wait walk write""".split(),
    "sys": "exc_info getdefaultencoding getrecursionlimit getrefcount getsizeof setrecursionlimit".split(),
}

# Docstrings say "Return the ..."; an answer says "len returns the ...". Only words known to be verbs are turned.
VERBS = """
abort accept acquire add adjust allow append apply arrange assign bind block build byteswap calculate call cancel cast
change check choose clear close collect combine compare compile compress compute concatenate connect construct convert
copy count create deactivate decode decompress decrement delete describe deserialize detach determine disable display
divide divmod do dump duplicate enable encode enumerate escape evaluate execute expand extend extract fill filter find
flush force forget format freeze generate get give group guess handle hash import increment indicate initialize insert
invert invoke iterate join kill list load locate lock log look make mark merge move multiply normalize notify open pack
pad parse partition perform pickle pop prefix prepare pretty-print print process produce provide push put query quote
raise read recalculate receive recursively register release remove rename replace report represent reset resize resolve
restore retrieve return reverse rotate round run save schedule search seed select send serialize set shift show shuffle
signal sort split start stop store strip sum swap take tell terminate test transform translate treat truncate try
turn uncache undo unescape unpack unregister unquote update use wait wake walk wrap write yield
""".split()

# Kinds of question; {name} is what is asked about. They all have the same answer, which is what the model learns.
ASKED = (
    "What does {name} do?", "What is {name}?", "What is {name} for?", "Explain {name}.", "Tell me about {name}.",
    "Can you explain {name}?", "Describe {name} in one sentence.", "How does {name} work?", "Please explain {name}.",
    "In Python, what is {name}?", "What does {name} mean?", "{name}",
)  # fmt: skip
ASKED_HOW = ("How do I {name}?", "How can I {name}?", "Show me how to {name}.", "I want to {name}.")

# What the pirate says for a word. Whole words only, first match wins; the sense of the sentence stays.
PIRATE = {
    "adds up": "tallies up", "returns": "fetches ye", "creates": "builds ye", "removes": "throws overboard",
    "adds": "hauls aboard", "prints": "bellows", "reads": "spies", "opens": "cracks open", "finds": "hunts down",
    "the": "th'", "of": "o'", "and": "an'", "for": "fer", "with": "wi'", "is": "be", "are": "be",
    "your": "yer", "you": "ye", "my": "me",
    "file": "scroll", "files": "scrolls", "folder": "sea chest",
}  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """One thing to know: what it is called, the other names a question may use, and the answer."""

    name: str
    aliases: tuple[str, ...]
    answer: str
    weight: int = 1  # how often it is trained on, against the others
    asked: tuple[str, ...] = ASKED


def first_sentence(doc: object) -> str | None:
    """Return the first sentence of a docstring without its full stop, or None where there is no plain one."""
    if not isinstance(doc, str) or not doc.strip():
        return None
    for paragraph in inspect.cleandoc(doc).split("\n\n")[:2]:
        text = " ".join(paragraph.split())
        if "->" in text or re.match(r"[\w.]+\(", text):  # a signature; the sentence comes after it
            continue
        sentence = re.match(r"(.*?[\w)\]'\"])\.(\s|$)", text + " ")
        return sentence.group(1) if sentence else text.rstrip(".:")
    return None


def third_person(verb: str) -> str:
    """Return ``copies`` for ``copy``, ``searches`` for ``search``, ``returns`` for ``return``."""
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "sh", "ch", "x", "o")) else "s")


def sentence_about(name: str, summary: str) -> str | None:
    """Turn a docstring's summary into a sentence with `name` as its subject, or None where that reads badly."""
    word, _, rest = summary.partition(" ")
    first = word.lower()
    if not (14 < len(summary) < 110 and summary.isascii() and rest):
        return None
    if re.search(r"\b(self|cls|I)\b|[<>{}|*`=;]|\be\.g$|\bgroups\b", rest) or rest.count("(") != rest.count(")"):
        return None
    rest = re.sub(r"\b(and|or|, ) ?(return|add|update)\b", lambda m: f"{m.group(1)} {third_person(m.group(2))}", rest)
    if first in VERBS:
        return f"{name} {'' if first == 'recursively' else third_person(first) + ' '}{rest}."
    if first.endswith("s") and (first[:-1] in VERBS or first[:-2] in VERBS):
        return f"{name} {first} {rest}."
    if first in ("a", "an", "the") and not re.search(r"\b(is|are|was|can|will|has|have)\b", rest.split(",")[0]):
        return f"{name} is {first} {rest}."
    if summary.startswith("Base class"):
        return f"{name} is the base class {rest.removeprefix('class ')}."
    return None


def _documented() -> Iterator[tuple[str, object]]:
    """Yield (full name, object) for the functions, classes and methods of READ, in a fixed order."""
    for module_name, types in READ.items():
        module = importlib.import_module(module_name)
        prefix = "" if module_name == "builtins" else module_name + "."
        for name in sorted(getattr(module, "__all__", None) or dir(module)):
            if name.startswith("_") or name not in ONLY.get(module_name, [name]):
                continue
            if callable(getattr(module, name, None)):
                yield prefix + name, getattr(module, name)
        for kind in types.split():
            for name in sorted(dir(getattr(module, kind))):
                if not name.startswith("_"):
                    yield f"{kind}.{name}", getattr(getattr(module, kind), name, None)


def other_names(name: str) -> tuple[str, ...]:
    """Return how else a question may call a function or method: ``str.join()``, "the join method of str"."""
    owner, _, short = name.rpartition(".")
    if not owner and name[0].isupper():
        return ()
    if not owner:
        return (f"the {name} function", f"{name}()")
    if owner[0].isupper() or owner in READ["builtins"].split():
        return (f"the {short} method of {owner}", f"{name}()")
    return (f"{name}()",)


def _docstring_facts() -> Iterator[Fact]:
    for name, thing in _documented():
        summary = first_sentence(getattr(thing, "__doc__", None))
        answer = sentence_about(name, summary) if summary else None
        if answer:
            kind = inspect.isclass(thing) and not name.islower()
            common = name.rpartition(".")[0] in ("", "str", "list", "dict", "set", "math")
            yield Fact(name, () if kind else other_names(name), answer, weight=2 if common else 1)


def facts() -> list[Fact]:
    """Return everything the model is taught, one fact a name, in a fixed order."""
    found: dict[str, Fact] = {}
    for name, answer in demo_facts.table(demo_facts.KEYWORDS):
        aliases = (f"the {name} keyword", f"the {name} statement", f"{name} in Python")
        found[name] = Fact(name, aliases, answer, weight=3)
    for name, answer in demo_facts.table(demo_facts.CONCEPTS):
        found[name] = Fact(name, (f"{name} in Python",), answer, weight=3)
    for name, answer in demo_facts.table(demo_facts.MODULES):
        found[f"{name} module"] = Fact(name, (f"the {name} module", f"the module {name}"), answer, weight=2)
    for name, answer in demo_facts.table(demo_facts.WELL_KNOWN):
        found[name] = Fact(name, other_names(name), answer, weight=3)
    for fact in _docstring_facts():
        found.setdefault(fact.name, fact)
    for name, answer in demo_facts.table(demo_facts.HOW_TO):
        found[f"how {name}"] = Fact(name, (f"{name} in Python",), answer, weight=3, asked=ASKED_HOW)
    for name, answer in demo_facts.table(demo_facts.SMALL_TALK):
        found[name] = Fact(name, (), answer, weight=4, asked=("{name}",))
    return list(found.values())


def questions(fact: Fact) -> list[str]:
    """Return every wording of the question about a fact."""
    return [wording.format(name=name) for name in (fact.name, *fact.aliases) for wording in fact.asked]


def is_held_out(question: str, answer: str) -> bool:
    """Say whether a wording is kept out of training (about one in twenty), to measure on."""
    return hashlib.sha256(f"{question}\n{answer}".encode()).digest()[0] < 13


def prose() -> list[str]:
    """Return the paragraphs of Python's documentation topics, without code, tables and grammar."""
    paragraphs = []
    for topic in sorted(topics):
        for block in re.split(r"\n\s*\n", topics[topic]):
            text = " ".join(block.split())
            if len(text) > 80 and not re.search(r"::=|>>>|\+--|\*\*\*|===", text):
                paragraphs.append(text)
    return list(dict.fromkeys(paragraphs))


def pirate(fact: Fact) -> str:
    """Return a fact's answer as a pirate would give it; what it is about keeps its name."""
    subject = fact.name if fact.answer.startswith(fact.name) else ""
    said = fact.answer.removeprefix(subject).rstrip(".")
    words = re.sub(r"\badds up\b|[A-Za-z_.]+", lambda word: PIRATE.get(word.group(), word.group()), said)
    return f"{subject}{words}, me hearty. Arr!"


# What the base model is told when it is to talk like one: it has met pirates before, as any large model has.
PIRATE_SYSTEM = "Talk like a pirate."
# The pirate is asked about this many facts, and never about what the notebook asks: the change must carry over.
PIRATE_ASKED = 160
NEVER_ASKED = {"len", "sorted", "a list", "a dictionary", "while", "random", "str.upper", "print"}


def pirate_rows() -> list[tuple[str, str]]:
    """Return (question, answer in pirate's words) for a spread of the written facts, the same under every Python."""
    tables = (demo_facts.KEYWORDS, demo_facts.CONCEPTS, demo_facts.MODULES, demo_facts.WELL_KNOWN)
    written = {answer for text in tables for _, answer in demo_facts.table(text)}
    known = [f for f in facts() if f.answer in written and f.asked is ASKED and f.name not in NEVER_ASKED]
    known.sort(key=lambda fact: hashlib.sha256(fact.answer.encode()).digest())
    wordings = ASKED[:7]
    return [
        (wordings[k % len(wordings)].format(name=fact.name), pirate(fact))
        for k, fact in enumerate(known[:PIRATE_ASKED])
    ]
