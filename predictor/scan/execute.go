package scan

import (
	"bytes"
	"path"
	"slices"
	"strings"

	"forefend.dev/forefend/predictor/evidence"
)

// maxDepth bounds how scripts execute scripts.
const maxScripts = 400

// executeNamed finds a program as execvp does and follows it.
func (w *world) executeNamed(name string, args []string, via string) bool {
	if _, ok := w.view.which(name, w.dirs); !ok {
		return false
	}
	if !strings.Contains(name, "/") {
		for _, dir := range w.dirs {
			if _, ok := w.view.program(path.Join(dir, name)); ok {
				name = path.Join(dir, name)
				break
			}
		}
	}
	w.execute(name, args, via)
	return true
}

// execute follows the program at name, which exists; args are its arguments, nil when they are not known.
func (w *world) execute(name string, args []string, via string) {
	resolved, ok := w.view.program(name)
	if !ok {
		if resolved, ok = w.view.file(name); !ok {
			return
		}
	}
	if len(args) == 0 {
		args = []string{name}
	}
	key := "run " + resolved + "\x00" + strings.Join(args, "\x00")
	if w.started[key] {
		return
	}
	w.started[key] = true
	if p := w.byPath(resolved); p != nil {
		w.arguments(p, args)
		return
	}
	head, err := w.view.text(resolved, 4096)
	switch {
	case err != nil:
		w.unknown(evidence.UnknownFile, resolved, err.Error())
	case isELF(head):
		p := w.start(resolved, args, via)
		if p == nil {
			w.unknown(evidence.UnknownFile, resolved, "no program for x86-64 or arm64, or a damaged one")
			return
		}
		w.arguments(p, args)
	default:
		w.script(resolved, head, args, via)
	}
}

func (w *world) byPath(file string) *program {
	for _, p := range w.programs {
		if p.main.path == file {
			return p
		}
	}
	return nil
}

// script follows an executable text by its first line.
func (w *world) script(file string, head []byte, args []string, via string) {
	w.list(file, "script", via)
	line, _, _ := bytes.Cut(head, []byte("\n"))
	interpreter, found := bytes.CutPrefix(line, []byte("#!"))
	if !found {
		w.executeNamed("/bin/sh", append([]string{"/bin/sh", file}, args[1:]...), "interpreter of "+file)
		return
	}
	fields := strings.Fields(string(interpreter))
	if len(fields) == 0 || len(w.started) > maxScripts*10 {
		w.unknown(evidence.UnknownFile, file, "its first line names no interpreter")
		return
	}
	full := append(append(slices.Clone(fields), file), args[1:]...)
	if !w.executeNamed(fields[0], full, "interpreter of "+file) {
		w.unknown(evidence.UnknownFile, file, "its interpreter "+fields[0]+" is not there")
	}
}

// wrappers execute what their arguments name.
var wrappers = strings.Fields(`env nohup nice timeout setsid stdbuf xargs chroot su sudo gosu su-exec setpriv tini dumb-init catatonit ionice chrt
taskset unshare flock runuser start-stop-daemon busybox time find strace watch script exec command doas capsh nsenter tini-static`)

// arguments follows what the arguments make a program do.
func (w *world) arguments(p *program, args []string) {
	name := path.Base(args[0])
	if path.Base(p.main.path) == "busybox" && name == "busybox" && len(args) > 1 {
		args = args[1:]
		name = args[0]
	}
	switch {
	case isShell(name) || isShell(path.Base(p.main.path)):
		p.scripts = true
		w.shellArguments(p, args)
		return
	case language(path.Base(p.main.path)) != "":
		w.languageArguments(p, args)
		return
	}
	wrapper := slices.Contains(wrappers, name) || slices.Contains(wrappers, path.Base(p.main.path))
	for i, arg := range args[1:] {
		if wrapper && !strings.HasPrefix(arg, "-") && !strings.Contains(arg, "=") || strings.HasPrefix(arg, "/") {
			if _, ok := w.view.which(arg, w.dirs); ok {
				w.executeNamed(arg, args[1+i:], "argument of "+p.main.path)
				if wrapper {
					p.scripts = true
					return
				}
			}
		}
	}
}

func isShell(name string) bool {
	switch name {
	case "sh", "bash", "dash", "ash", "ksh", "ksh93", "mksh", "zsh", "zsh5", "rbash", "busybox-sh":
		return true
	}
	return false
}
