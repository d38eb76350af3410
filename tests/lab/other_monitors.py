"""Nagios and monit on a lab node, beside dmonitor: both watch the ports of a target, and it is noted when each says that one is down.

Nagios checks each port once a minute, as one host with three tries and another one with one; monit polls as Debian's package
has it (120 s), and a second monit each minute. What they start to tell hands a mail to postfix, and notes when that took it.
"""

from __future__ import annotations

from common import Failed, Lab, until
from failing_ports import Alert, Target

TOOLS = (
    "nagios-3",
    "nagios-1",
    "monit-120",
    "monit-60",
)  # with their tries, or the seconds of a poll
USER = "others"  # whom they mail, on the target
_TELL, _TOLD = "/usr/local/sbin/lab-tell", "/var/log/lab-told"
_TELL_PROGRAM = f"""#!/bin/bash
began=$EPOCHREALTIME
printf 'To: %s\\nSubject: %s says that %s is down\\n\\n' "$3" "$1" "$2" | /usr/sbin/sendmail -t &&
    echo "$1 $2 $began $EPOCHREALTIME" >>{_TOLD}
"""
_NAGIOS = """
define command {{
    command_name lab-tell
    command_line {tell} $HOSTNAME$ $SERVICEDESC$ $CONTACTEMAIL$
}}
define command {{
    command_name lab-tcp
    command_line /usr/lib/nagios/plugins/check_tcp -H $HOSTADDRESS$ -p $ARG1$
}}
define contact {{
    contact_name                  lab
    email                         {address}
    service_notification_commands lab-tell
    host_notification_commands    lab-tell
    service_notification_period   24x7
    host_notification_period      24x7
    service_notification_options  c
    host_notification_options     n
}}
define contactgroup {{
    contactgroup_name admins
    members           lab
}}
"""
_NAGIOS_HOST = """
define host {{
    host_name          nagios-{tries}
    address            {target}
    max_check_attempts 3
    contact_groups     admins
    check_period       24x7
    notification_period 24x7
}}
"""
_NAGIOS_SERVICE = """
define service {{
    use                 generic-service
    host_name           nagios-{tries}
    service_description {test}
    check_command       lab-tcp!{port}
    max_check_attempts  {tries}
    check_interval      1
    retry_interval      1
    contact_groups      admins
}}
"""
_MONIT = """
check host p{port} with address {target}
    if failed port {port} then exec "{tell} {tool} {test} {address}"
"""


class Others:
    """The other monitors, on a node of their own."""

    def __init__(self, lab: Lab, node: str, target: Target) -> None:
        self.lab, self.node, self.target = lab, node, target
        self._address = f"{USER}@{target.node}.lab"

    def set_up(self) -> None:
        self.lab.run(self.target.node, "useradd", "--create-home", USER)
        self.lab.do("apt", self.node, "update", limit=300)
        install = "install -y --no-install-recommends nagios4-core monitoring-plugins-basic monit"
        self.lab.do("apt", self.node, *install.split(), limit=600)
        self._write(_TELL, _TELL_PROGRAM)
        self.lab.run(self.node, "sh", "-c", f"chmod 755 {_TELL}; >{_TOLD}; chmod 666 {_TOLD}")
        self._set_up_nagios()
        self._set_up_monit()

    def _write(self, path: str, content: str) -> None:
        self.lab.run(self.node, "sh", "-c", f"cat >{path}", stdin=content.encode())

    def _set_up_nagios(self) -> None:
        parts = [_NAGIOS.format(tell=_TELL, address=self._address)]
        for tries in (3, 1):
            parts.append(_NAGIOS_HOST.format(tries=tries, target=self.target.node))
            for port, test in zip(self.target.ports, self.target.tests, strict=True):
                parts.append(_NAGIOS_SERVICE.format(tries=tries, port=port, test=test))
        self._write("/etc/nagios4/lab.cfg", "".join(parts))
        configure = """
            cd /etc/nagios4
            sed -i '/^cfg_dir=/d; /^cfg_file=/d' nagios.cfg
            for name in objects/timeperiods objects/templates objects/commands lab; do
                echo "cfg_file=/etc/nagios4/$name.cfg" >>nagios.cfg
            done
            nagios4 -v nagios.cfg || exit
            systemctl restart nagios4
        """
        self.lab.run(self.node, "sh", "-c", configure)

    def _set_up_monit(self) -> None:
        for tool in ("monit-120", "monit-60"):
            parts = []
            for port, test in zip(self.target.ports, self.target.tests, strict=True):
                check = _MONIT.format(
                    test=test,
                    target=self.target.node,
                    port=port,
                    tell=_TELL,
                    tool=tool,
                    address=self._address,
                )
                parts.append(check)
            self._write(f"/etc/monit/{tool}", "".join(parts))
        # The second one is as the package's, but with files and a time of its own.
        configure = r"""
            cd /etc/monit
            sed 's/^\( *set daemon\) .*/\1 60/; s,/var/\(log\|lib\)/monit,&60,; s,/run/monit,&60,; /^ *include/d' monitrc >monitrc60
            mkdir -p /var/lib/monit60
            printf 'set pidfile /run/monit60.pid\ninclude /etc/monit/monit-60\n' >>monitrc60
            ln -s ../monit-120 conf-enabled/lab
            chmod 600 monitrc60 monit-*
            monit -t -c monitrc60 && monit -t || exit
            systemctl restart monit
            systemd-run -q --unit=monit60 monit -I -c /etc/monit/monitrc60
        """
        self.lab.run(self.node, "sh", "-c", configure)
        running = ["systemctl", "is-active", "nagios4", "monit", "monit60"]
        if not until(lambda: self.lab.call("exec", self.node, *running)[0] == 0, 20):
            raise Failed(self.lab.call("exec", self.node, *running)[2])

    def alerts(self) -> dict[str, list[Alert]]:
        """Return what each tool has said is down."""
        found: dict[str, list[Alert]] = {tool: [] for tool in TOOLS}
        for line in self.lab.run(self.node, "cat", _TOLD).splitlines():
            tool, test, began, ended = line.split()
            name = f"{self.target.node}/{test}"
            found[tool].append(Alert(name, float(began), float(ended), tool))
        return found
