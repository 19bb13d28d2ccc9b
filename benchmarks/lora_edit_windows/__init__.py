"""LoRA-Edit on clips longer than the toy video model: windows, naive chaining, one piece."""
