/* A module whose library is missing. */
int hm_gone(void);
__attribute__((visibility("default"))) int hm_orphan(void);
int hm_orphan(void)
{
    return hm_gone();
}
