#ifndef WATCH_H
#define WATCH_H

/* Start both watchdogs: TIM5, which is exact and knows why it restarts the board, and the
 * independent one behind it, which also sees a processor that takes no interrupts any more. */
void watch_start(void);
void watch_feed(void);
void watch_handler(void); /* of TIM5 */

#endif
