/* A library that is there when orphan.so is linked, and under that name never again. */
int hm_gone(void);
int hm_gone(void)
{
    return 1;
}
