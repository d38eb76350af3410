"""Look at the programs that a configuration names: plugins, hooks and sendmail.

For `dmonitor-check -t`, and for rounds, which start sendmail and hooks only when something fails.
It looks at files, and starts and changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection

from dmonitor.base import names
from dmonitor.config import resolve
from dmonitor.config.configuration import Configuration
from dmonitor.config.files import read_lines
from dmonitor.config.problems import Problems, did_you_mean
from dmonitor.config.tests import OWN, file_of
from dmonitor.core.model import Test
from dmonitor.execution import plugin

# Parameters that every plugin may get: a suffix of the test's name sets PORT, and `wrap` heeds
# TIMEOUT. Some are dmonitor's own.
_COMMON_PARAMETERS = ("TIMEOUT", "PORT", *OWN)
_PLUGIN_PREFIX = "check_"
_ALIASES = "/etc/aliases"
# The mail systems that leave an address without a domain as it is.
_COMPLETES_NOTHING = ("dma", "esmtp", "msmtp", "ssmtp")
# What people and configuration tools append to the name of a file that is not to count any more.
_LEFT_OVERS = ("old", "orig", "tmp", "disabled", "off", "rpmsave", "rpmnew", "rpmorig", "ucf-dist")


def examine_programs(configuration: Configuration, problems: Problems) -> set[str]:
    """Look at plugins, hooks and sendmail; return missing packages.

    Rounds do this, too, now and then: they would find out otherwise only when something fails. What
    else `examine` finds is a trouble of its own in each round.
    """
    _examine_sendmail(configuration, problems)  # a trouble names the first mistakes only
    packages = _examine_recipients(configuration, problems)
    packages |= examine_tests(configuration, problems)
    return packages


def examine_tests(configuration: Configuration, problems: Problems) -> set[str]:
    """Look at the plugin of each test and at the name of each host; return missing packages."""
    packages: set[str] = set()
    for test, parameters in configuration.tests.items():
        packages |= _examine_plugin(configuration, test, parameters or {}, problems)
    for host in sorted({test.host for test in configuration.tests}):
        if _looks_like_address(host) and not resolve.is_address(host):
            text = "is neither a host name nor an address, so it cannot be found; rename it"
            problems.warning(f"{configuration.directory}/hosts.d/{host}", text)
    return packages


def _examine_plugin(
    configuration: Configuration, test: Test, parameters: Collection[str], problems: Problems
) -> set[str]:
    """Look at the plugin of `test`, which gets `parameters`; return missing packages."""
    path = configuration.plugin(test)
    test_path = f"{configuration.directory}/hosts.d/{test}"
    if not os.path.lexists(path):
        plugins = _plugin_names(os.path.dirname(path))
        hint = did_you_mean(test.plugin.removeprefix(_PLUGIN_PREFIX), plugins)
        problems.error(test_path, f"no plugin {path}{hint}")
        return set()
    fault = plugin.fault(path)
    if fault:
        problems.error(path, f"{fault}; needed for {test}")
        return set()
    if plugin.is_monitoring_plugin(path):
        text = "is a monitoring plugin, whose exit status counts; see wrap in dmonitor-plugin(7)"
        problems.error(path, f"{text}; needed for {test}")
        return set()
    script = plugin.text(path)
    if not script:
        return set()
    _examine_parameters(configuration.directory, test, parameters, script, problems)
    return _missing_packages(path, script, f"needed for {test}", problems)


def _examine_parameters(
    directory: str, test: Test, parameters: Collection[str], script: str, problems: Problems
) -> None:
    """Name the parameters of `test` that its plugin, the `script`, does not know.

    A plugin whose head states its parameters takes no other one. Of any other script it is only
    known which words occur in it.
    """
    stated = plugin.stated_parameters(script)
    known = {*stated, *OWN}
    if test.name.partition(":")[2].isdigit():
        # The name of the test sets it, even if it is only there to tell tests apart.
        known.add("PORT")
    for parameter in plugin.required_parameters(script):
        if parameter not in parameters:
            hint = ""
            if parameter == "PORT":
                hint = f", or name the test {test.name.partition(':')[0]}:8080 for port 8080"
            text = f"{test.plugin} needs {parameter}; write {parameter}=VALUE in this file{hint}"
            problems.error(f"{directory}/hosts.d/{test}", text)
    for parameter in parameters:
        if stated and parameter not in known:
            hint = did_you_mean(parameter, stated) or f"; it has {', '.join(stated)}"
            path = file_of(directory, test, parameter)
            problems.error(path, f"{test.plugin} has no parameter {parameter}{hint}")
        elif not stated and parameter not in script and parameter not in _COMMON_PARAMETERS:
            hint = did_you_mean(parameter, set(re.findall("[A-Z][A-Z0-9_]{2,}", script)))
            path = file_of(directory, test, parameter)
            problems.warning(path, f"{test.plugin} does not use {parameter}{hint}")


def _plugin_names(directory: str) -> list[str]:
    """Return the names of the plugins in `directory`, without their prefix."""
    plugins = []
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(directory)):
            if name.startswith(_PLUGIN_PREFIX):
                plugins.append(name.removeprefix(_PLUGIN_PREFIX))
    return plugins


def _missing_packages(path: str, script: str, purpose: str, problems: Problems) -> set[str]:
    """Add an error for each program that `script` needs and that is not installed.

    Return the packages that have these programs.
    """
    lacking = plugin.lacking(script)
    for program in lacking:
        problems.error(path, f"{program} is not installed; {purpose}")
    return set(lacking.values())


def _looks_like_address(host: str) -> bool:
    """Return whether `host` cannot be a host name: it has a colon, or only digits and dots."""
    return ":" in host or not host.strip("0123456789.")


def _examine_recipients(configuration: Configuration, problems: Problems) -> set[str]:
    """Look at each file in alert.d; return packages that hooks miss."""
    packages: set[str] = set()
    for address in configuration.addresses:
        path = configuration.hook(address)
        if names.is_hook(address):
            packages |= _examine_hook(path, problems)
        else:
            _examine_address(path, address, problems)
        stem, _, suffix = address.removeprefix(names.HOOK).rpartition(".")
        if stem and suffix.lower() in _LEFT_OVERS:
            text = f"looks like a copy of {stem} that was left over, and is told as well; remove it"
            problems.warning(path, text)
    return packages


def _examine_address(path: str, address: str, problems: Problems) -> None:
    """Look at the file `path` in alert.d, which stands for a mail address."""
    if plugin.text(path):
        text = "is a script, but it is mailed as an address, because it is not executable"
        problems.error(path, f"{text}; if it is a hook, chmod 750 and chgrp dmonitor")
    if "@" not in address and not _is_local(address):
        text = "is neither a user of this machine nor in /etc/aliases, so it may reach nobody"
        problems.warning(path, f"{text}; remove it, or write the whole address")


def _is_local(name: str) -> bool:
    """Return whether `name` is a user of this machine, or has a line in /etc/aliases."""
    import pwd

    name = name.partition("+")[0]
    try:
        pwd.getpwnam(name)
        return True
    except KeyError:
        pass
    aliases = read_lines(_ALIASES, Problems())
    return name.lower() in {line.partition(":")[0].strip(' \t"').lower() for line in aliases}


def _examine_hook(path: str, problems: Problems) -> set[str]:
    """Look at the hook `path`; return missing packages."""
    fault = plugin.fault(path)
    if fault:
        # A hook often holds a password, so it is not made readable for everybody.
        problems.error(path, fault.replace("chmod 755", "chmod 750 and chgrp dmonitor"))
        return set()
    return _missing_packages(path, plugin.text(path), "this hook needs it", problems)


def _examine_sendmail(configuration: Configuration, problems: Problems) -> None:
    """Find out whether mail can be sent, if anybody is mailed."""
    sendmail = configuration.settings.sendmail
    if all(map(names.is_hook, configuration.addresses)):
        return
    if not os.path.exists(sendmail):
        text = "sendmail does not exist, so no mail can be sent; install a mail transport agent"
    elif not os.path.isfile(sendmail):
        text = "sendmail is not a file, so no mail can be sent; install a mail transport agent"
    else:
        reason = plugin.why_not_executable(sendmail)
        if not reason:
            _examine_sender(configuration, problems)
            return
        text = f"no mail can be sent, because sendmail {reason}"
    problems.error(sendmail, text)


def _examine_sender(configuration: Configuration, problems: Problems) -> None:
    """Warn of a sender without a domain where the mail system does not complete it."""
    sender = configuration.settings.sender
    program = os.path.basename(os.path.realpath(configuration.settings.sendmail))
    if sender and "@" not in sender and program in _COMPLETES_NOTHING:
        text = f"from = {sender} has no domain, and {program} adds none, so mail may be refused"
        path = f"{configuration.directory}/dmonitor.conf"
        problems.warning(path, f"{text}; write {sender}@DOMAIN, or remove the line")
