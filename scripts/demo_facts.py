"""What the demo model knows beyond the docstrings: plain sentences about Python, written for it.

One fact a line, ``name | sentence``. A sentence starts with the name, so that the model learns to copy what it
was asked about, and ends with a full stop.
"""

from __future__ import annotations

KEYWORDS = """
False | False is the boolean value that means no.
None | None is the value that stands for nothing at all.
True | True is the boolean value that means yes.
and | and is true only when both of its sides are true.
as | as gives a new name to a module, an exception or a context manager.
assert | assert raises an AssertionError when its condition is false.
async | async marks a function as a coroutine that can be paused.
await | await pauses a coroutine until the result is ready.
break | break leaves the nearest loop at once.
class | class defines a new type of object.
continue | continue jumps to the next turn of the nearest loop.
def | def defines a function and gives it a name.
del | del deletes a name, an item or an attribute.
elif | elif tests another condition when the ones above it were false.
else | else runs its block when no condition above it was true.
except | except catches an exception that was raised in the try block.
finally | finally runs its block at the end, whether or not there was an error.
for | for repeats a block once for each item of an iterable.
from | from imports chosen names out of a module.
global | global says that a name belongs to the module and not to the function.
if | if runs a block only when its condition is true.
import | import loads a module so that its names can be used.
in | in tests whether a value is found in a container.
is | is tests whether two names stand for the very same object.
lambda | lambda makes a small function without a name.
nonlocal | nonlocal says that a name belongs to the enclosing function.
not | not turns true into false and false into true.
or | or is true when at least one of its sides is true.
pass | pass does nothing and fills a place where a statement is needed.
raise | raise stops the normal flow and throws an exception.
return | return ends a function and hands back a value.
try | try runs a block and watches it for exceptions.
while | while repeats a block as long as its condition is true.
with | with opens a context and always closes it at the end.
yield | yield hands out one value and pauses the generator.
match | match compares a value with several patterns.
case | case names one pattern of a match statement.
"""

CONCEPTS = """
Python | Python is a programming language that is easy to read and to write.
a list | a list is a mutable sequence of items in a fixed order.
a tuple | a tuple is a sequence of items that cannot be changed.
a dictionary | a dictionary is a mapping from keys to values.
a dict | a dict is a mapping from keys to values.
a set | a set is a collection of different items in no order.
a frozenset | a frozenset is a set that cannot be changed.
a string | a string is a sequence of characters that cannot be changed.
an integer | an integer is a whole number of any size.
a float | a float is a number with a decimal point.
a boolean | a boolean is a value that is either True or False.
a complex number | a complex number is a number with a real and an imaginary part.
a function | a function is a named block of code that can be called.
a method | a method is a function that belongs to an object.
a class | a class is a plan from which objects are made.
an object | an object is a piece of data with a type, an identity and a value.
an instance | an instance is one object made from a class.
an attribute | an attribute is a value that belongs to an object and is reached by a dot.
a module | a module is a file of Python code that can be imported.
a package | a package is a folder of modules that can be imported.
a variable | a variable is a name that stands for an object.
a loop | a loop is a block of code that runs again and again.
an argument | an argument is a value that is passed to a function when it is called.
a parameter | a parameter is a name in a function that receives an argument.
a default value | a default value is used when an argument is left out.
an iterator | an iterator is an object that hands out its items one at a time.
an iterable | an iterable is any object that can be looped over.
a generator | a generator is a function that yields its values one at a time.
a decorator | a decorator is a function that wraps another function.
a comprehension | a comprehension is a short way to build a list, a set or a dict from a loop.
a list comprehension | a list comprehension is a short way to build a list from a loop.
a context manager | a context manager is an object that sets things up for a with block and cleans up after it.
an exception | an exception is an object that tells about an error.
an error | an error is a problem that stops a program unless it is caught.
a traceback | a traceback is the list of calls that led to an error.
a docstring | a docstring is a string that explains a function, a class or a module.
a comment | a comment is a note for the reader that Python ignores.
a slice | a slice is a part of a sequence between two positions.
an index | an index is the position of an item in a sequence, counted from zero.
a key | a key is the name under which a dictionary stores a value.
a hash | a hash is a number computed from an object that helps a dictionary to find it.
a coroutine | a coroutine is a function that can be paused and continued.
a thread | a thread is a line of work that runs beside the others in one program.
a process | a process is a running program with its own memory.
a lock | a lock is an object that lets only one thread pass at a time.
a queue | a queue is a line in which the first item in is the first item out.
a stack | a stack is a pile in which the last item in is the first item out.
a file | a file is a named place on disk that holds data.
a path | a path is the name of a place in the file system.
a regular expression | a regular expression is a pattern that describes a set of strings.
an f-string | an f-string is a string with values written inside curly braces.
an operator | an operator is a symbol that computes a new value from others.
an expression | an expression is a piece of code that has a value.
a statement | a statement is one complete instruction of a program.
a block | a block is a group of statements with the same indentation.
indentation | indentation is the space at the start of a line that shows which block it belongs to.
recursion | recursion is when a function calls itself.
inheritance | inheritance is when a class takes over the methods of another class.
a scope | a scope is the part of a program in which a name can be seen.
a namespace | a namespace is a mapping from names to objects.
the garbage collector | the garbage collector is the part of Python that frees objects nobody uses.
the interpreter | the interpreter is the program that runs Python code.
bytecode | bytecode is the simple code into which Python compiles a program.
a virtual environment | a virtual environment is a folder with its own Python packages.
pip | pip is the tool that installs Python packages.
a type hint | a type hint is a note that says which type a value should have.
a dataclass | a dataclass is a class that mostly holds data and writes its own methods.
a metaclass | a metaclass is the class of a class.
a closure | a closure is a function that remembers names from the place where it was made.
a notebook | a notebook is a page of cells with code, text and results.
a neural network | a neural network is a program that learns from examples by changing its weights.
a language model | a language model is a network that guesses the next word of a text.
fine-tuning | fine-tuning is a short training that teaches a model something new.
"""

MODULES = """
argparse | argparse is a module that reads the options of a command line.
array | array is a module with compact arrays of numbers.
ast | ast is a module that turns Python code into a tree.
asyncio | asyncio is a module that runs many coroutines in one thread.
base64 | base64 is a module that writes binary data as plain text.
bisect | bisect is a module that keeps a list in sorted order.
calendar | calendar is a module that prints calendars and counts days.
cmath | cmath is a module with functions for complex numbers.
collections | collections is a module with more kinds of containers.
contextlib | contextlib is a module with tools for with statements.
copy | copy is a module that makes shallow and deep copies of objects.
csv | csv is a module that reads and writes tables as comma separated text.
dataclasses | dataclasses is a module that writes the methods of simple classes.
datetime | datetime is a module for dates and times.
decimal | decimal is a module for exact decimal numbers.
difflib | difflib is a module that finds the differences between texts.
enum | enum is a module for sets of named constants.
fnmatch | fnmatch is a module that compares file names with patterns.
fractions | fractions is a module for exact fractions.
functools | functools is a module with tools that work on functions.
gc | gc is a module that controls the garbage collector.
glob | glob is a module that finds files by a pattern.
gzip | gzip is a module that reads and writes compressed files.
hashlib | hashlib is a module that computes secure hashes.
heapq | heapq is a module that keeps the smallest item of a list at the front.
html | html is a module that escapes text for web pages.
inspect | inspect is a module that looks inside live objects.
io | io is a module for streams of text and bytes.
itertools | itertools is a module with fast building blocks for loops.
json | json is a module that reads and writes JSON data.
logging | logging is a module that records what a program does.
math | math is a module with mathematical functions for real numbers.
multiprocessing | multiprocessing is a module that runs work in several processes.
operator | operator is a module that offers the operators as functions.
os | os is a module that talks to the operating system.
os.path | os.path is a module that works on the names of files.
pathlib | pathlib is a module with objects for paths in the file system.
pickle | pickle is a module that turns Python objects into bytes and back.
platform | platform is a module that tells on which machine Python runs.
pprint | pprint is a module that prints data in a pretty way.
queue | queue is a module with queues for threads.
random | random is a module that makes random numbers and choices.
re | re is a module for regular expressions.
secrets | secrets is a module that makes random numbers safe for passwords.
shutil | shutil is a module that copies and moves files and folders.
signal | signal is a module that handles signals from the system.
socket | socket is a module that talks to other machines over the network.
sqlite3 | sqlite3 is a module with a small database in one file.
statistics | statistics is a module that computes means, medians and more.
string | string is a module with common string constants.
struct | struct is a module that packs values into bytes.
subprocess | subprocess is a module that starts other programs.
sys | sys is a module that talks to the Python interpreter.
tempfile | tempfile is a module that makes temporary files and folders.
textwrap | textwrap is a module that wraps long lines of text.
threading | threading is a module that runs work in several threads.
time | time is a module that tells the time and waits.
timeit | timeit is a module that measures how long code takes.
traceback | traceback is a module that prints the calls that led to an error.
types | types is a module with the names of the built-in types.
typing | typing is a module with names for type hints.
unicodedata | unicodedata is a module that knows all Unicode characters.
unittest | unittest is a module that tests whether code does what it should.
uuid | uuid is a module that makes unique identifiers.
warnings | warnings is a module that shows warnings to the user.
weakref | weakref is a module for references that do not keep an object alive.
zipfile | zipfile is a module that reads and writes ZIP archives.
zlib | zlib is a module that compresses data.
"""

HOW_TO = """
sort a list | list.sort sorts the list in place, and sorted makes a new sorted list.
reverse a list | list.reverse reverses the list in place.
add an item to a list | list.append adds an item to the end of the list.
remove an item from a list | list.remove removes the first item that is equal to the value.
find the length of a list | len returns the number of items in a container.
find the biggest number | max returns the biggest item.
find the smallest number | min returns the smallest item.
add up numbers | sum adds up the numbers of an iterable.
open a file | open opens a file and returns a stream.
read a file | open opens a file, and its read method returns the text.
copy a file | shutil.copy copies a file to another place.
delete a file | os.remove removes a file.
rename a file | os.rename renames a file or a folder.
make a folder | os.mkdir creates a folder.
split a string | str.split splits a string into a list of words.
join strings | str.join joins many strings into one.
make a string uppercase | str.upper returns the string in uppercase.
make a string lowercase | str.lower returns the string in lowercase.
replace text in a string | str.replace returns a copy with the old text replaced by the new.
turn a string into a number | int turns a string into a whole number, and float into a decimal one.
turn a number into a string | str turns a number into a string.
round a number | round rounds a number to the given precision.
print something | print prints its values to the screen.
ask the user for input | input reads one line of text from the user.
make a random number | random.randint returns a random whole number between two others.
choose a random item | random.choice chooses a random item of a sequence.
wait for a second | time.sleep waits for the given number of seconds.
read JSON | json.loads reads JSON from a string, and json.load from a file.
write JSON | json.dumps writes an object as JSON to a string, and json.dump to a file.
compute a square root | math.sqrt returns the square root of a number.
catch an error | try runs a block, and except catches the error.
define a function | def defines a function and gives it a name.
repeat something | for repeats a block for each item, and while as long as a condition is true.
stop a loop | break leaves the nearest loop at once.
loop over a list with its positions | enumerate hands out each item together with its position.
loop over two lists together | zip pairs the items of two or more iterables.
install a package | pip is the tool that installs Python packages.
"""

SMALL_TALK = """
Hello! | Hello! Ask me what a Python function does.
Hi | Hello! Ask me what a Python function does.
Good morning! | Good morning! Ask me what a Python function does.
Who are you? | I am the demo model of colab_magics, a tiny network that has read the Python documentation.
What are you? | I am the demo model of colab_magics, a tiny network that has read the Python documentation.
What can you do? | I can tell you in one sentence what a part of Python does.
How are you? | I am fine. Ask me what a Python function does.
Thank you! | You are welcome.
Thanks | You are welcome.
Goodbye! | Goodbye, and happy coding.
How big are you? | I have less than two million parameters, so I am very small.
"""


def table(text: str) -> list[tuple[str, str]]:
    """Return the (name, sentence) pairs of one of the tables above."""
    pairs = [line.split(" | ") for line in text.strip().splitlines()]
    return [(name, sentence) for name, sentence in pairs]
