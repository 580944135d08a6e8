package memory

import (
	"fmt"
	"path"
	"strings"

	"forefend.dev/forefend/predictor/scan/setup"
)

// postgres: shared buffers once, each connection some private memory, and a few operations of work_mem at a time.
func postgres(in input) estimate {
	var files []string
	if f, ok := in.Flag("-c=config_file", "--config-file"); ok {
		files = append(files, f)
	}
	for i, a := range in.Args {
		if v, ok := strings.CutPrefix(a, "config_file="); ok && i > 0 {
			files = append(files, v)
		}
	}
	if dir, ok := in.Flag("-D"); ok {
		files = append(files, path.Join(dir, "postgresql.conf"))
	} else if dir := in.Env["PGDATA"]; dir != "" {
		files = append(files, path.Join(dir, "postgresql.conf"))
	}
	d := in.directives(files...)
	if len(d) == 0 { // none named, or on a volume that the image does not show
		d = in.directives(setup.Match(in.tree, "/etc/postgresql/*/main/postgresql.conf")...)
	}
	for i, a := range in.Args { // -c name=value and --name=value
		if name, value, ok := strings.Cut(strings.TrimPrefix(a, "--"), "="); ok && (strings.HasPrefix(a, "--") || i > 0 && in.Args[i-1] == "-c") {
			name = strings.ReplaceAll(name, "-", "_")
			d[name] = append(d[name], value)
		}
	}
	shared := sized(d, "shared_buffers", 8*kib, 128*mib)
	work := sized(d, "work_mem", kib, 4*mib)
	v, _ := d.Last("max_connections")
	connections := setup.Count(v, 100)
	return estimate{
		typical: 25*mib + 0.5*shared + 0.05*connections*3*mib,
		high:    60*mib + 1.05*shared + connections*(5*mib+work),
		basis:   fmt.Sprintf("shared_buffers %s, %.0f connections, work_mem %s", bytes(shared), connections, bytes(work)),
	}
}

// redis: data up to maxmemory, half as much again while a snapshot is written and for fragmentation.
func redis(in input) estimate {
	d := make(setup.Directives)
	if len(in.Args) > 0 && !strings.HasPrefix(in.Args[0], "-") {
		d = in.directives(in.Args[0])
	}
	if v, ok := in.Flag("--maxmemory"); ok {
		d["maxmemory"] = append(d["maxmemory"], v)
	}
	most := sized(d, "maxmemory", 1, 0)
	if most == 0 {
		return estimate{typical: 12 * mib, high: 1 * gib, basis: "no maxmemory: as much as is stored in it"}
	}
	return estimate{typical: 10*mib + 0.6*most, high: 1.5*most + 40*mib, basis: "maxmemory " + bytes(most)}
}

// mysql: the buffer pool, and for each connection buffers and a thread's stack.
func mysql(in input) estimate {
	files := []string{"/etc/my.cnf", "/etc/mysql/my.cnf"}
	for _, dir := range []string{"/etc/mysql/conf.d", "/etc/mysql/mariadb.conf.d", "/etc/mysql/mysql.conf.d", "/etc/my.cnf.d"} {
		files = append(files, setup.Files(in.tree, dir, ".cnf")...)
	}
	if f, ok := in.Flag("--defaults-file"); ok {
		files = []string{f}
	}
	d := in.directives(files...)
	for _, a := range in.Args {
		if name, value, ok := strings.Cut(a, "="); ok && strings.HasPrefix(name, "--") {
			name = strings.ReplaceAll(name[2:], "-", "_")
			d[name] = append(d[name], value)
		}
	}
	pool := sized(d, "innodb_buffer_pool_size", 1, 128*mib)
	v, _ := d.Last("max_connections")
	connections := setup.Count(v, 151)
	return estimate{
		typical: 75*mib + 0.25*pool, high: 1.1*pool + 250*mib + connections*3*mib,
		basis: fmt.Sprintf("innodb_buffer_pool_size %s, %.0f connections", bytes(pool), connections),
	}
}

// memcached: -m in MiB, 64 unless said, for data; connections and threads beside.
func memcached(in input) estimate {
	most := 64.0 * mib
	v, ok := in.Flag("-m", "--memory-limit")
	if !ok {
		v, _ = in.directives("/etc/memcached.conf").Last("_m")
	}
	if n, ok := setup.Size(v, mib); ok {
		most = n
	}
	return estimate{typical: 3*mib + 0.4*most, high: 1.15*most + 60*mib, basis: "cache of " + bytes(most)}
}

// nginx: a master and workers, one per core if auto; each connection takes some buffers.
func nginx(in input) estimate {
	file := "/etc/nginx/nginx.conf"
	if f, ok := in.Flag("-c"); ok {
		file = f
	}
	d := in.directives(file)
	workers := 1.0
	if v, ok := d.Last("worker_processes"); ok {
		workers = max(1, setup.Count(v, in.node.cores())) // auto
	}
	v, _ := d.Last("worker_connections")
	connections := setup.Count(v, 512)
	return estimate{
		typical: 3*mib + workers*1.5*mib, high: 20*mib + workers*(20*mib+connections*40*kib),
		basis: fmt.Sprintf("%.0f workers of %.0f connections", workers, connections),
	}
}

// apache: worker processes of the event model, or one per request with prefork, which PHP as a module needs.
func apache(in input) estimate {
	var files []string
	for _, dir := range []string{"/etc/apache2/mods-enabled", "/etc/apache2/mods-available", "/usr/local/apache2/conf/extra"} {
		files = append(files, setup.Files(in.tree, dir, "mpm_event.conf")...)
		files = append(files, setup.Files(in.tree, dir, "mpm_prefork.conf")...)
		files = append(files, setup.Files(in.tree, dir, "mpm.conf")...)
		if len(files) > 0 {
			break
		}
	}
	d := in.directives(files...)
	v, _ := d.Last("maxrequestworkers")
	workers := setup.Count(v, 150)
	prefork := len(setup.Match(in.tree, "/etc/apache2/mods-enabled/mpm_prefork.load")) > 0 &&
		setup.Text(in.tree, "/etc/apache2/mods-enabled/mpm_prefork.load") != ""
	if prefork {
		return estimate{typical: 60 * mib, high: 100*mib + workers*30*mib, basis: fmt.Sprintf("%.0f prefork processes", workers)}
	}
	return estimate{typical: 14 * mib, high: 80*mib + workers*1*mib, basis: fmt.Sprintf("%.0f worker threads", workers)}
}

// sized reads a size; a bare number is in unit, a missing one is def.
func sized(d setup.Directives, name string, unit, def float64) float64 {
	v, _ := d.Last(name)
	if n, ok := setup.Size(v, unit); ok {
		return n
	}
	return def
}
