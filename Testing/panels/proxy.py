"""PythonQt's view of Qt objects: properties are attributes, signals are connected by signature, all else is an error.

A proxy holds its native object: a PySide6 object, or a stand-in of ctk_widgets.py, mrml_widgets.py, ... Natives do the
work, proxies check every use against the contract. `wrap` and `unwrap` go from one to the other.
"""

from __future__ import annotations

import weakref

import contract
from contract import CLASSES, NotInHost, record
from PySide6 import QtCore, QtGui, QtWidgets

IMPLEMENTATIONS: dict[str, type] = {}  # natives that Qt does not have, by the name of their class
TYPES = {"QString": str, "bool": bool, "int": int, "double": (int, float), "QStringList": (list, tuple)}
proxyClasses: dict[str, type] = {}
timers: weakref.WeakSet[QtCore.QTimer] = weakref.WeakSet()  # made by scripts


def implements(native: type) -> type:
    """Registers a native under its class name."""
    IMPLEMENTATIONS[native.__name__] = native
    return native


def implementation(className: str) -> type | None:
    qtModules = (QtWidgets, QtGui, QtCore)
    return IMPLEMENTATIONS.get(className) or next((getattr(m, className) for m in qtModules if hasattr(m, className)), None)


def wrap(value):
    if isinstance(value, (list, tuple)):
        return tuple(wrap(item) for item in value)  # as PythonQt does
    isNative = isinstance(value, (QtCore.QObject, *IMPLEMENTATIONS.values()))
    if not isNative:
        return value
    proxy = getattr(value, "_proxy", lambda: None)()
    if proxy is None:
        className = next(c.__name__ for c in type(value).__mro__ if c.__name__ in CLASSES)
        proxy = object.__new__(proxyClass(className))
        attach(proxy, value)
    return proxy


def attach(proxy: Proxy, native) -> None:
    """The native knows its proxy weakly: an object without a parent goes with the script's last reference, as in Slicer."""
    object.__setattr__(proxy, "_native", native)
    native._proxy = weakref.ref(proxy)


def unwrap(value):
    if isinstance(value, Proxy):
        return value._native
    if isinstance(value, (list, tuple)):
        return type(value)(unwrap(item) for item in value)
    if callable(value) and not isinstance(value, type):
        return guarded(value)
    return value


def guarded(function, count: int | None = None):
    """`function` as a slot: PythonQt passes no more arguments than it takes, and errors do not reach Qt."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if code is not None and not code.co_flags & 0x04:  # no *args
        taken = code.co_argcount - hasattr(function, "__func__")
        count = taken if count is None else min(count, taken)

    def slot(*args):
        try:
            function(*(wrap(arg) for arg in args[:count]))
        except Exception as error:
            record.keep(error)

    fixed = (lambda: slot(), lambda a: slot(a), lambda a, b: slot(a, b), lambda a, b, c: slot(a, b, c), slot)
    return fixed[min(4 if count is None else count, 4)]  # PySide calls functions with *args without arguments


class Signal:
    """`button.clicked.connect(f)`: the same as `button.connect("clicked()", f)`."""

    def __init__(self, proxy: Proxy, signature: str) -> None:
        self.proxy, self.signature = proxy, signature

    def connect(self, slot) -> bool:
        return self.proxy.connect(self.signature, slot)

    def disconnect(self, slot) -> bool:
        return self.proxy.disconnect(self.signature, slot)

    def emit(self, *args) -> None:
        nativeSignal(self.proxy, self.signature).emit(*unwrap(args))

    __call__ = emit


def nativeSignal(proxy: Proxy, signature: str):
    """An overload of a stand-in's signal is named with its type: currentNodeChanged_bool."""
    name, types = signature.rstrip(")").split("(")
    found = getattr(proxy._native, f"{name}_{types}", None) or getattr(proxy._native, name, None)
    if found is None:
        record.fail(f"the host's {type(proxy).__name__} lacks the signal {signature}", NotInHost)
    return found


def checkedSignature(proxy: Proxy, text: str) -> str:
    """`text` as Qt normalizes it, if the class has such a signal."""
    signature = bytes(QtCore.QMetaObject.normalizedSignature(text)).decode()
    className = type(proxy).__name__
    if signature not in contract.signatures(className, "signals", signature.split("(")[0]):
        record.fail(f"{className} has no signal {text!r}")
    return signature


class ProxyType(type):
    """Class attributes: enum values and static functions."""

    def __getattr__(cls, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        if not contract.isStatic(cls.__name__, name):
            record.fail(f"{cls.__name__}.{name} does not exist")
        native = getattr(implementation(cls.__name__), name, None)
        if native is None:
            record.fail(f"{cls.__name__}.{name} is not part of the host", NotInHost)
        return (lambda *args: wrap(native(*unwrap(args)))) if callable(native) else native


class Proxy(metaclass=ProxyType):
    def __init__(self, *args, **keywords) -> None:
        className = type(self).__name__
        if keywords or (className[0] != "Q" and any(not isinstance(arg, Proxy | None) for arg in args)):
            record.fail(f"{className}({args}, {keywords}): PythonQt's constructor takes nothing but a parent widget")
        if CLASSES[className].get("abstract"):
            record.fail(f"{className} cannot be constructed from Python")
        native = implementation(className)
        if native is None:
            record.fail(f"{className} is not part of the host: write it in Testing/panels, or use another widget", NotInHost)
        attach(self, native(*unwrap(args)))
        if className == "QTimer":
            timers.add(self._native)

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        className = type(self).__name__
        found = contract.member(className, name)
        if found is None:
            record.fail(f"{className}.{name} does not exist")
        kind, detail = found
        if kind == "property":
            return wrap(readProperty(self._native, "objectName" if name == "name" else name))
        if kind == "signal":
            return Signal(self, detail)
        return getattr(type(self), name) if kind == "enum" else method(self, name)

    def __setattr__(self, name: str, value) -> None:
        className = type(self).__name__
        found = contract.member(className, name)
        if found is None or found[0] != "property":
            record.fail(f"{className}.{name} is not a property and cannot be set")
        if found[1].startswith("-"):
            record.fail(f"{className}.{name} is read-only")
        expected = TYPES.get(found[1], object)
        if not isinstance(value, expected) or (isinstance(value, bool) and expected is str):
            record.fail(f"{className}.{name} is a {found[1]}, it does not take {value!r}")
        writeProperty(self._native, "objectName" if name == "name" else name, unwrap(value))

    def __dir__(self):
        return [name for owner in contract.ancestry(type(self).__name__) for name in CLASSES[owner].get("properties", ())]

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._native!r}>"

    def connect(self, signal: str, *receiver) -> bool:
        """connect("clicked()", f), or connect("clicked()", object, "slot()")."""
        signature = checkedSignature(self, signal)
        slot = receiver[0] if len(receiver) == 1 else slotOf(*receiver)
        if not callable(slot):
            record.fail(f"{type(self).__name__}.connect({signal!r}): {slot!r} is not callable")
        types = signature.split("(")[1].rstrip(")")
        function = guarded(slot, types.count(",") + 1 if types else 0)
        if self._native.metaObject().indexOfSignal(signature) >= 0:
            QtCore.QObject.connect(self._native, QtCore.SIGNAL(signature), function)
        elif type(self._native).__module__.startswith("PySide6"):
            record.fail(f"{type(self).__name__} has no signal {signal!r} in Qt 6, with which Slicer is built too")
        else:
            nativeSignal(self, signature).connect(function)
        connections(self).append((signature, slot, function))
        return True

    def disconnect(self, signal: str, *receiver) -> bool:
        signature = checkedSignature(self, signal)
        slot = (receiver[0] if len(receiver) == 1 else slotOf(*receiver)) if receiver else None
        known = connections(self)
        ended = [c for c in known if c[0] == signature and slot in (None, c[1])]
        for connection in ended:
            known.remove(connection)
            if self._native.metaObject().indexOfSignal(signature) >= 0:
                QtCore.QObject.disconnect(self._native, QtCore.SIGNAL(signature), connection[2])
            else:
                nativeSignal(self, signature).disconnect(connection[2])
        return bool(ended)


def connections(proxy: Proxy) -> list:
    if not hasattr(proxy._native, "_connections"):
        proxy._native._connections = []
    return proxy._native._connections


def slotOf(receiver: Proxy, signature: str):
    name = signature.split("(")[0]
    if signature not in contract.signatures(type(receiver).__name__, "slots", name):
        record.fail(f"{type(receiver).__name__} has no slot {signature!r}")
    return method(receiver, name)


def method(proxy: Proxy, name: str):
    native, className = proxy._native, type(proxy).__name__
    if name == "className":
        return lambda: className
    name = name.rstrip("_")
    function = getattr(native, name, None) or getattr(native, name + "_", None)
    if function is None:
        record.fail(f"{className}.{name}() is not part of the host", NotInHost)

    def call(*args):
        return wrap(function(*unwrap(args)))

    return call


def hasQtProperty(native, name: str) -> bool:
    return isinstance(native, QtCore.QObject) and native.metaObject().indexOfProperty(name) >= 0


def readProperty(native, name: str):
    if hasQtProperty(native, name):
        return native.property(name)
    if not hasattr(native, name):
        record.fail(f"{type(native).__name__}.{name} is not part of the host", NotInHost)
    return getattr(native, name)


def writeProperty(native, name: str, value) -> None:
    if not hasQtProperty(native, name):
        readProperty(native, name)
        setattr(native, name, value)
    elif not native.setProperty(name, value):
        record.fail(f"{type(native).__name__}.{name} does not take {value!r}")


def proxyClass(className: str) -> type:
    """The class as scripts see it: one for each class of the contract, with the same bases."""
    if className not in proxyClasses:
        base = CLASSES[className]["base"]
        bases = (proxyClass(base),) if base in CLASSES else (Proxy,)
        proxyClasses[className] = ProxyType(className, bases, {})
    return proxyClasses[className]
