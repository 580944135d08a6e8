package needs

import (
	"cmp"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/scan/setup"
	"forefend.dev/forefend/runtime/rootfs"
)

// server is how one kind of program says where it listens.
type server struct {
	is       *regexp.Regexp
	flags    []string // a port, or an address with one
	files    []string // patterns of configuration files
	names    []string // directives in them whose first word is a port or an address with one
	port     int      // without any of these; 0: unknown
	protocol string   // tcp unless said
	argFile  bool     // the first argument is the configuration file
}

var servers = []server{
	{is: regexp.MustCompile(`^(nginx|openresty|angie)$`), flags: nil, names: []string{"listen"}, port: 80, files: []string{
		"/etc/nginx/nginx.conf", "/etc/nginx/conf.d/*.conf", "/etc/nginx/http.d/*.conf", "/etc/nginx/sites-enabled/*"}},
	{is: regexp.MustCompile(`^(apache2|httpd|apache2ctl|apachectl|httpd-foreground|apache2-foreground)$`), names: []string{"listen"}, port: 80,
		files: []string{"/etc/apache2/ports.conf", "/etc/httpd/conf/httpd.conf", "/usr/local/apache2/conf/httpd.conf"}},
	{is: regexp.MustCompile(`^(redis|valkey|keydb)-server$`), flags: []string{"--port"}, names: []string{"port"}, port: 6379, argFile: true},
	{is: regexp.MustCompile(`^postgres$|^postmaster$`), flags: []string{"-p", "port", "--port"}, names: []string{"port"}, port: 5432,
		files: []string{"/etc/postgresql/*/main/postgresql.conf"}},
	{is: regexp.MustCompile(`^(mysqld|mariadbd)(-safe|_safe)?$`), flags: []string{"-P", "--port"}, names: []string{"port"}, port: 3306,
		files: []string{"/etc/my.cnf", "/etc/mysql/my.cnf", "/etc/mysql/*/*.cnf"}},
	{is: regexp.MustCompile(`^memcached$`), flags: []string{"-p", "--port"}, port: 11211},
	{is: regexp.MustCompile(`^mongod$`), flags: []string{"--port"}, port: 27017},
	{is: regexp.MustCompile(`^sshd$`), flags: []string{"-p"}, names: []string{"port"}, port: 22, files: []string{"/etc/ssh/sshd_config"}},
	{is: regexp.MustCompile(`^php-fpm`), names: []string{"listen"}, files: []string{
		"/etc/php/*/fpm/pool.d/*.conf", "/usr/local/etc/php-fpm.d/*.conf", "/etc/php*/php-fpm.d/*.conf"}},
	{is: regexp.MustCompile(`^gunicorn3?$|^hypercorn$`), flags: []string{"-b", "--bind"}, port: 8000},
	{is: regexp.MustCompile(`^uvicorn$`), flags: []string{"--port"}, port: 8000},
	{is: regexp.MustCompile(`^haproxy$`), names: []string{"bind"}, files: []string{"/etc/haproxy/haproxy.cfg", "/usr/local/etc/haproxy/haproxy.cfg"}},
	{is: regexp.MustCompile(`^(named|unbound|coredns|dnsmasq)$`), port: 53, protocol: "udp"},
}

// general are flags that programs of one's own use; they count only when their value is a port or an address.
var general = []string{"--port", "-port", "--http-port", "--listen", "-listen", "--addr", "-addr", "--address", "-address", "--bind", "-bind",
	"--listen-address", "--http", "-http", "--web.listen-address", "--bind-address", "--http-address", "--server.port"}

const maxPorts = 64

// Ports lists where the command listens, lowest first. exposed are ports that the image's author names, as 80 or 53/udp.
func Ports(tree rootfs.Tree, command, env, exposed []string) []evidence.Port {
	l := list{tree: tree}
	p := setup.Of(command, env)
	known := false
	for _, s := range servers {
		if s.is.MatchString(p.Name) {
			known = true
			l.server(s, p)
		}
	}
	if !known {
		for _, flag := range general {
			if v, ok := p.Flag(flag); ok {
				l.add(v, "tcp", flag+" "+v)
			}
		}
		if m := regexp.MustCompile(`^python[\d.]*$`); m.MatchString(p.Name) {
			l.python(p)
		}
		if v := p.Env["PORT"]; v != "" {
			l.add(v, "tcp", "PORT="+v+" in the environment")
		}
	}
	for _, e := range exposed {
		number, protocol, ok := strings.Cut(e, "/")
		if !ok {
			protocol = "tcp"
		}
		if protocol == "tcp" || protocol == "udp" {
			l.add(number, protocol, "the image exposes it")
		}
	}
	slices.SortFunc(l.ports, func(a, b evidence.Port) int {
		return cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(a.Protocol, b.Protocol))
	})
	return l.ports
}

type list struct {
	tree  rootfs.Tree
	ports []evidence.Port
}

func (l *list) server(s server, p setup.Program) {
	protocol := cmp.Or(s.protocol, "tcp")
	before := len(l.ports)
	for i, flag := range s.flags {
		if v, ok := p.Flag(flag); ok {
			l.add(v, protocol, s.flags[i]+" "+v)
		}
	}
	var files []string
	if s.argFile && len(p.Args) > 0 && !strings.HasPrefix(p.Args[0], "-") {
		files = append(files, p.Args[0])
	}
	if v, ok := p.Flag("-c"); ok && strings.HasPrefix(v, "/") {
		files = append(files, v)
	} else {
		files = append(files, s.files...)
	}
	if len(l.ports) == before { // flags come before files
		for _, pattern := range files {
			for _, file := range setup.Match(l.tree, pattern) {
				d := make(setup.Directives)
				d.Parse(setup.Text(l.tree, file))
				for _, name := range s.names {
					for _, v := range d[name] {
						l.directive(v, protocol, file+": "+name+" ")
					}
				}
			}
		}
	}
	if len(l.ports) == before && s.port > 0 {
		l.add(strconv.Itoa(s.port), protocol, p.Name+" listens there unless it is told otherwise")
	}
}

// directive is a value such as "80 default_server", "[::]:443 ssl", "127.0.0.1:9000".
func (l *list) directive(v, protocol, why string) {
	words := strings.Fields(v)
	if len(words) == 0 {
		return
	}
	if slices.Contains(words, "quic") || slices.Contains(words, "udp") {
		protocol = "udp"
	}
	l.add(words[0], protocol, why+v)
}

// python knows the server in the standard library.
func (l *list) python(p setup.Program) {
	i := slices.Index(p.Args, "-m")
	if i < 0 || i+1 >= len(p.Args) || p.Args[i+1] != "http.server" {
		return
	}
	for _, a := range p.Args[i+2:] {
		if port(a) > 0 {
			l.add(a, "tcp", "python's http.server "+a)
			return
		}
	}
	l.add("8000", "tcp", "python's http.server listens there unless it is told otherwise")
}

// add takes a port, or an address with one; a path of a socket is none.
func (l *list) add(v, protocol, why string) {
	n := port(v)
	if n == 0 || len(l.ports) >= maxPorts {
		return
	}
	for _, p := range l.ports {
		if p.Number == n && p.Protocol == protocol {
			return
		}
	}
	l.ports = append(l.ports, evidence.Port{Number: n, Protocol: protocol, Why: fmt.Sprintf("%.160s", strings.ToValidUTF8(why, "?"))})
}

// port is the number in "80", ":80", "0.0.0.0:80", "[::]:80" or "http://x:80"; 0 when there is none.
func port(v string) int {
	if _, rest, ok := strings.Cut(v, "://"); ok {
		v = rest
	}
	if _, p, err := net.SplitHostPort(v); err == nil {
		v = p
	}
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil {
		return 0
	}
	return int(n)
}
