package needs

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/scan/setup"
	"forefend.dev/forefend/runtime/rootfs"
)

// firstOpenPort is where ports begin that anybody may listen on.
const firstOpenPort = 1024

// tools are programs whose purpose needs a capability.
var tools = []struct {
	is    *regexp.Regexp
	names []string
}{
	{regexp.MustCompile(`^(ping[46]?|arping|traceroute[46]?|tracepath|tcpdump|nmap|hping3|dhclient|fping|mtr)$`), []string{"NET_RAW"}},
	{regexp.MustCompile(`^(ip|ifconfig|route|iptables.*|ip6tables.*|xtables-.*|nft|tc|wg|wg-quick|brctl|ipset|openvpn|arptables|ethtool)$`), []string{"NET_ADMIN"}},
	{regexp.MustCompile(`^(mount|umount|unshare|nsenter|losetup|swapon|swapoff|pivot_root|mount\..*|fusermount3?|dockerd|containerd|runc|crun)$`), []string{"SYS_ADMIN"}},
	{regexp.MustCompile(`^(strace|ltrace|gdb|gdbserver|perf|pstack)$`), []string{"SYS_PTRACE"}},
	{regexp.MustCompile(`^(chroot|debootstrap)$`), []string{"SYS_CHROOT"}},
	{regexp.MustCompile(`^(ntpd|chronyd|hwclock|ntpdate|adjtimex)$`), []string{"SYS_TIME"}},
	{regexp.MustCompile(`^(chrt|renice|ionice)$`), []string{"SYS_NICE"}},
	{regexp.MustCompile(`^(mknod|makedev)$`), []string{"MKNOD"}},
	{regexp.MustCompile(`^(modprobe|insmod|rmmod|kmod)$`), []string{"SYS_MODULE"}},
	{regexp.MustCompile(`^(reboot|shutdown|halt|poweroff|kexec)$`), []string{"SYS_BOOT"}},
	{regexp.MustCompile(`^dmesg$`), []string{"SYSLOG"}},
	{regexp.MustCompile(`^setcap$`), []string{"SETFCAP"}},
	{regexp.MustCompile(`^(chown|chgrp|install|useradd|adduser|groupadd|addgroup)$`), []string{"CHOWN"}},
	{regexp.MustCompile(`^chmod$`), []string{"FOWNER"}},
	{regexp.MustCompile(`^(su|sudo|gosu|su-exec|setpriv|runuser|s6-setuidgid|chpst|start-stop-daemon|setuidgid)$`), []string{"SETUID", "SETGID"}},
	{regexp.MustCompile(`^(su|sudo|login|passwd|sshd|cron|crond)$`), []string{"AUDIT_WRITE"}},
}

// demoting are servers that start as root, take what root may take, and become another user.
var demoting = []struct {
	is      *regexp.Regexp
	setting string // a directive or flag that asks for it; "": they always do
	files   []string
	names   []string
}{
	{regexp.MustCompile(`^(nginx|openresty|angie)$`), "", nil, []string{"SETUID", "SETGID", "CHOWN", "DAC_OVERRIDE", "KILL"}},
	{regexp.MustCompile(`^(apache2|httpd|apache2ctl|apachectl|httpd-foreground|apache2-foreground)$`), "", nil, []string{"SETUID", "SETGID", "KILL", "DAC_OVERRIDE"}},
	{regexp.MustCompile(`^php-fpm`), "", nil, []string{"SETUID", "SETGID", "CHOWN", "KILL", "FOWNER"}},
	{regexp.MustCompile(`^memcached$`), "-u", nil, []string{"SETUID", "SETGID"}},
	{regexp.MustCompile(`^(mysqld|mariadbd)(_safe|-safe)?$`), "--user", []string{"/etc/mysql/my.cnf", "/etc/my.cnf", "/etc/mysql/*/*.cnf"}, []string{"SETUID", "SETGID", "DAC_OVERRIDE"}},
	{regexp.MustCompile(`^haproxy$`), "user", []string{"/etc/haproxy/haproxy.cfg", "/usr/local/etc/haproxy/haproxy.cfg"}, []string{"SETUID", "SETGID"}},
	{regexp.MustCompile(`^(named|unbound|dnsmasq)$`), "", nil, []string{"SETUID", "SETGID"}},
	{regexp.MustCompile(`^(sshd|vsftpd|proftpd|postfix|master|dovecot|cron|crond)$`), "", nil, []string{"SETUID", "SETGID", "SYS_CHROOT", "KILL", "DAC_OVERRIDE", "CHOWN"}},
	{regexp.MustCompile(`^(uwsgi|gunicorn3?)$`), "--uid", nil, []string{"SETUID", "SETGID"}},
}

// Capabilities lists what the command is likely to need, sorted by name, with the first reason found for each.
func Capabilities(tree rootfs.Tree, command, env []string, programs []evidence.Program, ports []evidence.Port) []evidence.Capability {
	n := needed{why: make(map[string]string)}
	for _, p := range ports {
		if p.Number < firstOpenPort {
			n.add(fmt.Sprintf("port %d: %s", p.Number, p.Why), "NET_BIND_SERVICE")
		}
	}
	main := setup.Of(command, env)
	n.program(tree, main.Name, main, "the command is "+main.Name)
	for i, word := range command { // wrappers that Of has taken away
		if i < 10 && main.Name != path.Base(word) {
			n.tool(path.Base(word), "the command begins with "+path.Base(word))
		}
	}
	if _, ok := main.Flag("-k", "--lock-memory", "--memlock"); ok && main.Name == "memcached" || slices.Contains(main.Args, "-k") && main.Name == "memcached" {
		n.add("memcached -k locks its memory", "IPC_LOCK")
	}
	for _, p := range setup.Near(programs) {
		if p.Kind == "library" || p.Kind == "plugin" || p.Kind == "module" {
			continue
		}
		n.program(tree, path.Base(p.Path), setup.Program{}, p.Path+" may be run")
		n.file(tree, p.Path)
	}
	var all []evidence.Capability
	for name, why := range n.why {
		all = append(all, evidence.Capability{Name: name, Why: why})
	}
	slices.SortFunc(all, func(a, b evidence.Capability) int { return strings.Compare(a.Name, b.Name) })
	return all
}

type needed struct{ why map[string]string }

func (n needed) add(why string, names ...string) {
	for _, name := range names {
		if n.why[name] == "" {
			n.why[name] = fmt.Sprintf("%.200s", strings.ToValidUTF8(why, "?"))
		}
	}
}

func (n needed) tool(name, why string) {
	for _, t := range tools {
		if t.is.MatchString(name) {
			n.add(why, t.names...)
		}
	}
}

func (n needed) program(tree rootfs.Tree, name string, p setup.Program, why string) {
	n.tool(name, why)
	for _, d := range demoting {
		if !d.is.MatchString(name) {
			continue
		}
		if d.setting == "" {
			n.add(why+", which starts as root and gives that up", d.names...)
			continue
		}
		if v, ok := p.Flag(d.setting); ok && v != "root" {
			n.add(why+" with "+d.setting+" "+v, d.names...)
			continue
		}
		settings := make(setup.Directives)
		for _, pattern := range d.files {
			for _, file := range setup.Match(tree, pattern) {
				settings.Parse(setup.Text(tree, file))
			}
		}
		if v, ok := settings.Last(strings.TrimLeft(d.setting, "-")); ok && v != "root" {
			n.add(why+", whose configuration says user "+v, d.names...)
		}
	}
}

// file reads the marks on a program: file capabilities, and setuid for root.
func (n needed) file(tree rootfs.Tree, name string) {
	f, _, err := tree.OpenFile(name)
	if err != nil {
		return
	}
	defer f.Close()
	var raw [64]byte
	if size, err := unix.Fgetxattr(int(f.Fd()), "security.capability", raw[:]); err == nil {
		n.add(name+" has it as a file capability", fileCapabilities(raw[:min(size, len(raw))])...)
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&fs.ModeSetuid == 0 {
		return
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid == 0 {
		n.add(name+" is setuid root", "SETUID", "SETGID")
	}
}

// fileCapabilities reads struct vfs_cap_data (capabilities(7)): a revision, then permitted and inheritable words.
func fileCapabilities(raw []byte) []string {
	if len(raw) < 12 {
		return nil
	}
	permitted := uint64(binary.LittleEndian.Uint32(raw[4:]))
	if len(raw) >= 20 {
		permitted |= uint64(binary.LittleEndian.Uint32(raw[12:])) << 32
	}
	var names []string
	for _, c := range capability.ListKnown() {
		if c >= 0 && c < 64 && permitted&(1<<uint(c)) != 0 {
			names = append(names, strings.ToUpper(c.String()))
		}
	}
	return names
}
