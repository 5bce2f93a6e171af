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

WELL_KNOWN = """
abs | abs returns the absolute value of a number.
all | all tells whether every item of an iterable is true.
any | any tells whether at least one item of an iterable is true.
bool | bool turns a value into True or False.
bytes | bytes is a sequence of small numbers that cannot be changed.
chr | chr returns the character with the given number.
dict | dict makes a dictionary, which maps keys to values.
dir | dir lists the names that an object has.
enumerate | enumerate hands out each item together with its position.
eval | eval computes the value of an expression written in a string.
exec | exec runs Python code written in a string.
filter | filter keeps only the items for which a function is true.
float | float turns a string or a number into a decimal number.
getattr | getattr returns an attribute of an object by its name.
hasattr | hasattr tells whether an object has an attribute of the given name.
help | help prints the documentation of an object.
input | input reads one line of text from the user.
int | int turns a string or a number into a whole number.
isinstance | isinstance tells whether an object is an instance of a class.
iter | iter returns an iterator over an object.
len | len returns the number of items in a container.
list | list makes a new list from the items of an iterable.
map | map applies a function to every item of an iterable.
max | max returns the biggest item of an iterable.
min | min returns the smallest item of an iterable.
next | next returns the next item of an iterator.
object | object is the base class of all classes.
open | open opens a file and returns a stream.
ord | ord returns the number of a character.
pow | pow raises a number to a power.
print | print writes its values to the screen.
property | property makes a method look like an attribute.
range | range makes a sequence of whole numbers from a start to a stop.
repr | repr returns a string that shows an object to a programmer.
reversed | reversed hands out the items of a sequence in reverse order.
round | round rounds a number to the given precision.
set | set makes a collection of different items.
slice | slice picks a part of a sequence.
sorted | sorted returns a new list with the items in sorted order.
str | str turns an object into a string.
sum | sum adds up the numbers of an iterable.
super | super reaches the methods of the parent class.
tuple | tuple makes a sequence that cannot be changed.
type | type returns the class of an object.
vars | vars returns the attributes of an object as a dictionary.
zip | zip pairs the items of two or more iterables.
str.endswith | str.endswith tells whether the string ends with the given text.
str.find | str.find returns the position of a piece of text, or -1 if it is not there.
str.format | str.format puts values in the places marked by curly braces.
str.join | str.join joins many strings into one with a separator between them.
str.lower | str.lower returns the string in lowercase.
str.replace | str.replace returns a copy with the old text replaced by the new.
str.split | str.split splits the string into a list of words.
str.startswith | str.startswith tells whether the string starts with the given text.
str.strip | str.strip removes the spaces at both ends of the string.
str.title | str.title makes the first letter of every word uppercase.
str.upper | str.upper returns the string in uppercase.
str.count | str.count counts how often a piece of text is found in the string.
str.encode | str.encode turns the string into bytes.
list.append | list.append adds an item to the end of the list.
list.clear | list.clear removes all items from the list.
list.copy | list.copy returns a shallow copy of the list.
list.count | list.count counts how often a value is found in the list.
list.extend | list.extend adds all items of an iterable to the end of the list.
list.index | list.index returns the position of the first item equal to the value.
list.insert | list.insert puts an item before the given position.
list.pop | list.pop removes the last item of the list and returns it.
list.remove | list.remove removes the first item that is equal to the value.
list.reverse | list.reverse reverses the list in place.
list.sort | list.sort sorts the list in place.
dict.clear | dict.clear removes all keys and values from the dictionary.
dict.copy | dict.copy returns a shallow copy of the dictionary.
dict.get | dict.get returns the value of a key, or a default if the key is not there.
dict.items | dict.items shows all pairs of keys and values of the dictionary.
dict.keys | dict.keys shows all keys of the dictionary.
dict.pop | dict.pop removes a key and returns its value.
dict.update | dict.update adds the keys and values of another dictionary.
dict.values | dict.values shows all values of the dictionary.
set.add | set.add adds an item to the set.
set.remove | set.remove removes an item that must be in the set.
set.discard | set.discard removes an item from the set if it is there.
set.union | set.union returns a set with the items of both sets.
set.intersection | set.intersection returns a set with the items that both sets have.
math.sqrt | math.sqrt returns the square root of a number.
math.floor | math.floor rounds a number down to a whole number.
math.ceil | math.ceil rounds a number up to a whole number.
math.sin | math.sin returns the sine of an angle.
math.cos | math.cos returns the cosine of an angle.
math.log | math.log returns the logarithm of a number.
math.factorial | math.factorial multiplies all whole numbers from one up to the given number.
math.gcd | math.gcd returns the greatest common divisor of two numbers.
random.random | random.random returns a random number between zero and one.
random.choice | random.choice chooses a random item of a sequence.
random.randint | random.randint returns a random whole number between two others.
random.shuffle | random.shuffle mixes the items of a list in place.
random.sample | random.sample chooses several different items of a population.
random.seed | random.seed sets the start of the random numbers.
os.getcwd | os.getcwd returns the name of the current folder.
os.listdir | os.listdir lists the names of the files in a folder.
os.mkdir | os.mkdir creates a folder.
os.remove | os.remove removes a file.
os.rename | os.rename renames a file or a folder.
os.walk | os.walk visits a folder and all the folders inside it.
os.path.join | os.path.join joins the parts of a path.
os.path.exists | os.path.exists tells whether a path exists.
json.dumps | json.dumps writes an object as JSON to a string.
json.loads | json.loads reads an object from a JSON string.
json.dump | json.dump writes an object as JSON to a file.
json.load | json.load reads an object from a JSON file.
time.time | time.time returns the number of seconds since 1970.
time.sleep | time.sleep waits for the given number of seconds.
re.search | re.search looks for a pattern anywhere in a string.
re.match | re.match looks for a pattern at the start of a string.
re.sub | re.sub replaces every match of a pattern.
re.split | re.split splits a string at every match of a pattern.
re.findall | re.findall returns a list of all matches of a pattern.
re.compile | re.compile prepares a pattern so that it can be used many times.
sys.argv | sys.argv is the list of words on the command line.
sys.path | sys.path is the list of folders in which modules are looked for.
sys.exit | sys.exit ends the program.
shutil.copy | shutil.copy copies a file to another place.
shutil.rmtree | shutil.rmtree removes a folder and everything in it.
copy.copy | copy.copy makes a shallow copy of an object.
copy.deepcopy | copy.deepcopy copies an object and everything inside it.
collections.Counter | collections.Counter counts how often each item is found.
collections.defaultdict | collections.defaultdict is a dictionary that fills in missing values by itself.
functools.lru_cache | functools.lru_cache remembers the results of earlier calls.
functools.partial | functools.partial fixes some arguments of a function.
itertools.chain | itertools.chain runs through several iterables one after the other.
ValueError | ValueError is raised when a value is of the right type but makes no sense.
TypeError | TypeError is raised when a value is of the wrong type.
KeyError | KeyError is raised when a key is not found in a dictionary.
IndexError | IndexError is raised when a position is outside of a sequence.
NameError | NameError is raised when a name is not known.
AttributeError | AttributeError is raised when an object has no such attribute.
ZeroDivisionError | ZeroDivisionError is raised when a number is divided by zero.
FileNotFoundError | FileNotFoundError is raised when a file does not exist.
ImportError | ImportError is raised when a module cannot be imported.
SyntaxError | SyntaxError is raised when code does not follow the grammar.
StopIteration | StopIteration is raised when an iterator has no more items.
KeyboardInterrupt | KeyboardInterrupt is raised when the user stops a program.
MemoryError | MemoryError is raised when there is no memory left.
RecursionError | RecursionError is raised when a function calls itself too often.
AssertionError | AssertionError is raised when an assertion is false.
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
