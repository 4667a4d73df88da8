/* A shared object that is no module at all. */
__attribute__((visibility("default"))) extern const int hollow;
const int hollow = 1;
