package ptrace

// mkdirNumber is the call that a C library may use in the place of mkdirat: there is none here.
const mkdirNumber = -1
