"""What Windows and macOS lack is used only where the source asks for it first, read off the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from sources import TREES

MODULES = {"resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog"}
# Of the modules that exist everywhere: what Windows, or also macOS, lacks.
ATTRIBUTES = {
    "os": {
        "sched_getaffinity", "sched_setaffinity", "nice", "fork", "getuid", "geteuid", "getgid", "killpg", "setsid",
        "setpgid", "getpgid", "mkfifo", "uname", "getloadavg", "statvfs", "chown", "lchown", "sysconf", "wait",
        "O_NOFOLLOW", "O_DIRECTORY", "memfd_create", "sendfile", "posix_fallocate", "posix_fadvise",
    },
    "signal": {
        "SIGKILL", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGPIPE", "SIGSTOP", "SIGCONT",
        "alarm", "setitimer", "pthread_kill", "sigwait", "pthread_sigmask", "siginterrupt",
    },
    "time": {"clock_gettime", "CLOCK_MONOTONIC", "tzset"},
    "socket": {"AF_UNIX"},
}  # fmt: skip


def outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from outside_functions(child)


def imported(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names}
    return {(node.module or "").partition(".")[0]} if isinstance(node, ast.ImportFrom) else set()


def test_no_module_needs_what_only_some_platforms_have_to_be_imported() -> None:
    wrong = {
        (path.name, module)
        for path, tree in TREES.items()
        for node in outside_functions(tree)
        for module in imported(node) & MODULES
    }
    assert not wrong, "import it in the function that needs it, for the platforms that have it"


def test_what_some_platforms_lack_is_asked_for_first() -> None:
    wrong = []
    for path, tree in TREES.items():
        asked = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
                continue
            module = node.value.id
            if node.attr in ATTRIBUTES.get(module, ()) and f"hasattr({module}, '{node.attr}')" not in asked:
                wrong.append(f"{path.name}:{node.lineno} {module}.{node.attr}")
    assert not wrong, "ask hasattr first, and do without it elsewhere"


def test_no_process_is_sent_a_signal_by_number() -> None:
    """On Windows ``os.kill`` ends the process whatever the signal, and 0, "is it there?", is Ctrl-C."""
    wrong = [
        f"{path.name}:{node.lineno}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        if ast.unparse(node.func) in {"os.kill", "process.send_signal", "worker.send_signal"}
    ]
    assert not wrong, "use psutil to look, and a file or Popen.kill to stop"


def test_files_name_their_encoding() -> None:
    """Windows and some servers read text as something else than UTF-8."""
    wrong = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            name, given = node.func.attr, {word.arg for word in node.keywords}
            binary = any(re.search("'[rwax+]*b", ast.unparse(one)) for one in node.args)
            opens = name == "open" and not binary and ast.unparse(node.func.value) not in ("os", "Image")
            named = "encoding" in given or "utf-8" in ast.unparse(node)
            if (opens or name in {"read_text", "write_text"}) and not named:
                wrong.append(f"{path.name}:{node.lineno} {ast.unparse(node.func)}")
    assert not wrong, "say encoding='utf-8'"
