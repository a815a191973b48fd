#include "trainer/agree.h"

enum status agree_worst(struct comm *c, enum status mine)
{
    int64_t worst = mine;

    TRY(c->ops->all_reduce_max(c, &worst, 1));
    return (enum status)worst;
}
