// Package object reads one ELF file and finds what its functions do: whom they call, which imports they use, which
// system calls they make, which addresses of functions they take. It knows nothing of other files: that is for the
// package above. It works on bytes alone, and bounds everything it reads: the bytes are hostile.
package object

// Object is what was found in one file. Functions are numbered by address.
type Object struct {
	Arch    string // as GOARCH
	Interp  string // of a program that is linked dynamically
	Soname  string
	Needed  []string
	Rpath   []string // with $ORIGIN unexpanded
	Runpath []string
	Go      bool // made by the Go compiler
	Static  bool // a program that needs no dynamic linker
	Fixed   bool // linked to fixed addresses

	Starts []uint64 // address of each function
	// Functions has what each function does. Edges >= 0 are functions, those below are imports: ^i of Imports.
	First   []uint32 // Edges[First[i]:First[i+1]] are those of function i
	Edges   []int32
	Imports []string
	Exports map[string][]int32 // functions by symbol name
	Roots   []int32            // edges that exist when the file is loaded: initialisers, tables of functions

	Numbers  map[int32][]int32  // system calls that a function makes
	Wrappers map[int32]uint64   // functions whose number is one of their arguments (track.Value.Args)
	Unknown  map[int32][]Site   // what could not be followed
	Commands map[int32][]string // commands, programs and libraries whose name a function gives as a constant
	Dynamic  map[int32]uint8    // what a function does with names that are not constant

	Paths []string // strings of the file that look like paths or libraries
	Names []uint32 // hashes of strings that look like names of functions, sorted; only if the file looks names up
}

// Site is a place in the code that could not be followed.
type Site struct {
	Offset uint64 // address in the file
	Why    string
}

// What Dynamic says: bits.
const (
	ExecutesPath    = 1 << iota // executes a program whose name is not constant
	ExecutesCommand             // gives a command line that is not constant to a shell
	LoadsLibrary                // loads a library whose name is not constant
)

// Hash is the hash of Names: FNV-1a.
func Hash(name string) uint32 {
	h := uint32(2166136261)
	for i := range len(name) {
		h = (h ^ uint32(name[i])) * 16777619
	}
	return h
}
